#include "care/scan.hpp"

#include <algorithm>
#include <limits>
#include <thread>
#include <vector>

#include "care/topk.hpp"
#include "score_rows.hpp"

namespace care {
namespace {

// Rows read by all queries before the next ones: a block stays in the second-level cache.
constexpr std::size_t kBlockBytes = 256 * 1024;
// Fewer rows than this are not worth a thread.
constexpr std::size_t kRowsPerThread = 4096;

void scan_part(const Matrix& documents, std::size_t begin, std::size_t end, const Matrix& queries,
               std::vector<TopK>& best) {
    const std::size_t block = std::max<std::size_t>(1, kBlockBytes / (documents.width * sizeof(float)));
    std::vector<double> scores(std::min(block, end - begin));
    for (std::size_t start = begin; start < end; start += block) {
        const std::size_t count = std::min(block, end - start);
        for (std::size_t q = 0; q < queries.rows; ++q) {
            score_rows(documents.data + start * documents.width, count, documents.width,
                       queries.data + q * queries.width, scores.data());
            for (std::size_t r = 0; r < count; ++r) {
                best[q].push({scores[r], static_cast<std::int64_t>(start + r)});
            }
        }
    }
}

}  // namespace

void scan(const Matrix& documents, const Matrix& queries, std::size_t k, std::size_t threads, float* scores,
          std::int64_t* ids) {
    const std::size_t useful = (documents.rows + kRowsPerThread - 1) / kRowsPerThread;
    const std::size_t parts = std::clamp<std::size_t>(useful, 1, std::max<std::size_t>(1, threads));
    std::vector<std::vector<TopK>> best(parts, std::vector<TopK>(queries.rows, TopK(k)));
    const auto work = [&](std::size_t part) {
        scan_part(documents, documents.rows * part / parts, documents.rows * (part + 1) / parts, queries, best[part]);
    };
    std::vector<std::jthread> workers;
    for (std::size_t part = 1; part < parts; ++part) workers.emplace_back(work, part);
    work(0);
    workers.clear();  // waits for each

    for (std::size_t q = 0; q < queries.rows; ++q) {
        for (std::size_t part = 1; part < parts; ++part) best[0][q].merge(best[part][q]);
        const std::vector<Hit> hits = best[0][q].sorted();
        for (std::size_t i = 0; i < k; ++i) {
            const bool found = i < hits.size();
            scores[q * k + i] = found ? static_cast<float>(hits[i].score) : -std::numeric_limits<float>::infinity();
            ids[q * k + i] = found ? hits[i].id : -1;
        }
    }
}

}  // namespace care
