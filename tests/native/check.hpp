// Compares a search with brute force.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

#include "care/codes.hpp"
#include "care/scan.hpp"
#include "care/score.hpp"
#include "care/topk.hpp"
#include "unchecked.hpp"

namespace check {

struct Case {
    std::size_t rows, width, query_width, queries, k, threads;
    // Vectors are `common` plus noise with deviation 1: the larger it is, the looser are the bounds.
    float common;
    bool subset;
    // The first value of every vector is so much larger, and zero in every query: pruning by codes fails.
    float outlier = 1;
    // Of which queries: all, or every so many-th.
    std::size_t failing = 1;
    // Where it is not 0, vector i is vector i % ties.
    std::size_t ties = 0;
    // Of a subset: three quarters of the vectors instead of one.
    bool most = false;
};

struct Coded {
    std::vector<std::uint8_t> bytes;
    std::vector<float> norms, mean;
    std::vector<const float*> errors;
    std::vector<std::uint8_t> int4_bytes, residuals;
    std::vector<float> int4_norms, value_scales;
    care::Int4Codes int4;
    care::Codes codes;

    // Quantised in two parts, as an index grows.
    Coded(const std::vector<float>& vectors, std::size_t rows, std::size_t width, std::size_t threads)
        : bytes(care::blocks(rows) * care::block_bytes(width)),
          norms((2 + care::error_norm_count(width)) * care::blocks(rows) * care::kBlock),
          mean(width, 0.5f),
          int4_bytes(care::blocks(rows) * care::int4_block_bytes(width)),
          residuals(care::blocks(rows) * care::kBlock * care::residual_bytes(width)),
          int4_norms(3 * care::blocks(rows) * care::kBlock),
          value_scales(width) {
        if (rows > 0) std::copy_n(vectors.begin(), width, mean.begin());
        const std::size_t stride = care::blocks(rows) * care::kBlock;
        std::vector<float*> writable;
        for (std::size_t i = 0; i < care::error_norm_count(width); ++i) {
            writable.push_back(norms.data() + (2 + i) * stride);
        }
        errors.assign(writable.begin(), writable.end());
        const care::MutableCodes made{bytes.data(), norms.data(), norms.data() + stride, writable.data()};
        const std::size_t middle = rows / 2;
        care::encode(vectors.data(), 0, middle, width, mean.data(), 3, threads, made);
        care::encode(vectors.data() + middle * width, middle, rows - middle, width, mean.data(), 3, threads, made);
        float* int4_scales = int4_norms.data();
        const care::MutableInt4Codes made_int4{int4_bytes.data(), int4_scales, int4_scales + stride, residuals.data(),
                                               int4_scales + 2 * stride};
        // From the smallest to the largest, some near to each other. Tight bounds for none of the cases.
        for (std::size_t j = 0; j < width; ++j) {
            value_scales[j] = j % 7 == 3 ? care::kMinValueScale : 1 - 0.1f * static_cast<float>(j % 5);
        }
        care::encode_int4(vectors.data(), 0, middle, width, mean.data(), 3, value_scales.data(), threads, made_int4);
        care::encode_int4(vectors.data() + middle * width, middle, rows - middle, width, mean.data(), 3,
                          value_scales.data(), threads, made_int4);
        int4 = {int4_bytes.data(),      int4_scales, int4_scales + stride, residuals.data(), int4_scales + 2 * stride,
                value_scales.data()};
        codes = {bytes.data(), norms.data(), norms.data() + stride, errors.data(), mean.data(), 3, &int4};
    }
};

// Fills with a sum of uniform values that is close to the normal distribution of deviation 1 around `mean`.
CARE_UNCHECKED inline void fill(std::vector<float>& values, std::uint64_t& state, float mean) {
    float* const to = values.data();
    const std::size_t count = values.size();
    for (std::size_t i = 0; i < count; ++i) {
        float sum = -2;
        for (int part = 0; part < 4; ++part) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += static_cast<float>(state >> 40) * 0x1p-24f;
        }
        to[i] = mean + 1.7320508f * sum;
    }
}

CARE_UNCHECKED inline double score(const float* vector, const float* query, std::size_t width) {
    return care::score(vector, query, width);
}

// The vectors of a case and their codes.
struct Indexed {
    std::vector<float> vectors;
    std::uint64_t state;
    std::optional<Coded> coded;

    explicit Indexed(const Case& c) : vectors(c.rows * c.width), state(c.rows * 31 + c.width) {
        fill(vectors, state, c.common);
        for (std::size_t r = 0; r < c.rows; ++r) vectors[r * c.width] *= c.outlier;
        const std::size_t repeated = c.ties * c.width;
        for (std::size_t i = repeated; repeated > 0 && i < vectors.size(); ++i) vectors[i] = vectors[i - repeated];
        coded.emplace(vectors, c.rows, c.width, c.threads);
    }

    // Kept for the next case, which may only ask other queries.
    static std::shared_ptr<const Indexed> of(const Case& c) {
        static std::shared_ptr<const Indexed> last;
        static Case made{};
        if (!last || c.rows != made.rows || c.width != made.width || c.threads != made.threads ||
            c.common != made.common || c.outlier != made.outlier || c.ties != made.ties) {
            last = std::make_shared<const Indexed>(c);
            made = c;
        }
        return last;
    }
};

// A case, its codes, and its hits by brute force.
class Expected {
public:
    explicit Expected(const Case& c)
        : case_(c), indexed_(Indexed::of(c)), queries_(c.queries * c.query_width), allowed_(care::blocks(c.rows)) {
        std::uint64_t state = indexed_->state;
        fill(queries_, state, 0);
        // Queries of several sizes: the constants and thresholds of one are wrong for its neighbours and for other groups.
        for (std::size_t i = 0; c.queries > 64 && i < queries_.size(); ++i) {
            queries_[i] *= 1 + static_cast<float>(i / c.query_width * 37 % 101) / 25;
        }
        std::mt19937 random(static_cast<unsigned>(state >> 32));
        for (std::size_t q = 0; q < c.queries && c.outlier != 1; q += c.failing) queries_[q * c.query_width] = 0;
        for (std::uint16_t& bits : allowed_) {
            const unsigned one = c.subset ? random() : 0xffff, other = c.subset ? random() : 0xffff;
            bits = static_cast<std::uint16_t>(c.most ? one | other : one & other);
        }
        const float* const vectors = indexed_->vectors.data();
        for (std::size_t q = 0; q < c.queries; ++q) {
            care::TopK best(c.k);
            for (std::size_t r = 0; r < c.rows; ++r) {
                if (!(allowed_[r / care::kBlock] >> (r % care::kBlock) & 1)) continue;
                best.push({score(vectors + r * c.width, queries_.data() + q * c.query_width, c.query_width),
                           static_cast<std::int64_t>(r)});
            }
            hits_.push_back(best.sorted());
        }
    }

    // Whether search(vectors, codes, queries, allowed, scores, ids, rescored) finds the same.
    template <typename Search>
    bool holds(std::string_view name, const Search& search) const {
        const Case& c = case_;
        // Exactly as long as the interface requires, so that a sanitizer detects a write beyond it.
        std::vector<double> scores(c.queries * c.k);
        std::vector<std::int64_t> ids(scores.size()), rescored(c.queries);
        search(care::Matrix{indexed_->vectors.data(), c.rows, c.width}, indexed_->coded->codes,
               care::Matrix{queries_.data(), c.queries, c.query_width}, c.subset ? &allowed_ : nullptr, scores.data(),
               ids.data(), rescored.data());
        for (std::size_t q = 0; q < c.queries; ++q) {
            const std::vector<care::Hit>& hits = hits_[q];
            for (std::size_t i = 0; i < c.k; ++i) {
                const std::int64_t expected = i < hits.size() ? hits[i].id : -1;
                if (ids[q * c.k + i] == expected && (expected < 0 || scores[q * c.k + i] == hits[i].score)) continue;
                std::printf("%.*s: %zu x %zu, query %zu, place %zu: %lld instead of %lld\n",
                            static_cast<int>(name.size()), name.data(), c.rows, c.width, q, i,
                            static_cast<long long>(ids[q * c.k + i]), static_cast<long long>(expected));
                return false;
            }
        }
        return true;
    }

private:
    const Case& case_;
    // Exactly as long as the interface requires, so that a sanitizer detects a read beyond it.
    std::shared_ptr<const Indexed> indexed_;
    std::vector<float> queries_;
    std::vector<std::uint16_t> allowed_;
    std::vector<std::vector<care::Hit>> hits_;
};

}  // namespace check
