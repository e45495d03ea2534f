// A search compared with the score of every vector.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string_view>
#include <vector>

#include "care/codes.hpp"
#include "care/scan.hpp"
#include "care/score.hpp"
#include "care/topk.hpp"

namespace check {

struct Case {
    std::size_t rows, width, searched, queries, k, threads;
    // Vectors are `common` plus noise of size 1: codes tell less, the larger it is.
    float common;
    bool subset;
    // The first value of every vector is so much larger, and no query looks at it: codes tell nothing of the others.
    float outlier = 1;
};

struct Coded {
    std::vector<std::uint8_t> bytes;
    std::vector<float> norms, mean;
    std::vector<const float*> errors;
    std::vector<std::uint8_t> half_bytes, quarters;
    std::vector<float> half_norms;
    care::Halves halves;
    care::Codes codes;

    // In two parts, as an index grows.
    Coded(const std::vector<float>& vectors, std::size_t rows, std::size_t width, std::size_t threads)
        : bytes(care::blocks(rows) * care::block_bytes(width)),
          norms((2 + care::norms(width)) * care::blocks(rows) * care::kBlock),
          mean(width, 0.5f),
          half_bytes(care::blocks(rows) * care::half_block_bytes(width)),
          quarters(care::blocks(rows) * care::kBlock * care::quarter_bytes(width)),
          half_norms(3 * care::blocks(rows) * care::kBlock) {
        if (rows > 0) std::copy_n(vectors.begin(), width, mean.begin());
        const std::size_t stride = care::blocks(rows) * care::kBlock;
        std::vector<float*> writable;
        for (std::size_t i = 0; i < care::norms(width); ++i) writable.push_back(norms.data() + (2 + i) * stride);
        errors.assign(writable.begin(), writable.end());
        const care::MutableCodes made{bytes.data(), norms.data(), norms.data() + stride, writable.data()};
        const std::size_t half = rows / 2;
        care::encode(vectors.data(), 0, half, width, mean.data(), 3, threads, made);
        care::encode(vectors.data() + half * width, half, rows - half, width, mean.data(), 3, threads, made);
        float* half_scales = half_norms.data();
        const care::MutableHalves halved{half_bytes.data(), half_scales, half_scales + stride, quarters.data(),
                                         half_scales + 2 * stride};
        care::encode_halves(vectors.data(), 0, half, width, mean.data(), 3, threads, halved);
        care::encode_halves(vectors.data() + half * width, half, rows - half, width, mean.data(), 3, threads, halved);
        halves = {half_bytes.data(), half_scales, half_scales + stride, quarters.data(), half_scales + 2 * stride};
        codes = {bytes.data(), norms.data(), norms.data() + stride, errors.data(), mean.data(), 3, &halves};
    }
};

// Whether a search finds what scoring every vector does: search(vectors, codes, queries, allowed, scores, ids, rescored).
template <typename Search>
bool holds(const Case& c, std::string_view name, const Search& search) {
    std::mt19937 random(static_cast<unsigned>(c.rows * 31 + c.width));
    std::normal_distribution<float> normal;
    std::vector<float> vectors(c.rows * c.width), queries(c.queries * c.searched);
    for (float& value : vectors) value = c.common + normal(random);
    for (float& value : queries) value = normal(random);
    for (std::size_t r = 0; r < c.rows; ++r) vectors[r * c.width] *= c.outlier;
    for (std::size_t q = 0; q < c.queries && c.outlier != 1; ++q) queries[q * c.searched] = 0;
    // An array of exactly the size that is promised: one read beyond it is seen.
    std::vector<std::uint16_t> allowed(care::blocks(c.rows));
    for (std::uint16_t& bits : allowed) bits = c.subset ? static_cast<std::uint16_t>(random() & random()) : 0xffff;

    const Coded coded(vectors, c.rows, c.width, c.threads);
    std::vector<double> scores(c.queries * c.k);
    std::vector<std::int64_t> ids(scores.size()), rescored(c.queries);
    search(care::Matrix{vectors.data(), c.rows, c.width}, coded.codes,
           care::Matrix{queries.data(), c.queries, c.searched}, c.subset ? &allowed : nullptr, scores.data(),
           ids.data(), rescored.data());
    for (std::size_t q = 0; q < c.queries; ++q) {
        care::TopK best(c.k);
        for (std::size_t r = 0; r < c.rows; ++r) {
            if (!(allowed[r / care::kBlock] >> (r % care::kBlock) & 1)) continue;
            best.push({care::score(vectors.data() + r * c.width, queries.data() + q * c.searched, c.searched),
                       static_cast<std::int64_t>(r)});
        }
        const std::vector<care::Hit> hits = best.sorted();
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

}  // namespace check
