// An index as it is searched, and a few queries ready for the kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "arithmetic.hpp"
#include "care/codes.hpp"
#include "care/scan.hpp"
#include "care/score.hpp"
#include "kernel.hpp"

namespace care {

// What is the same for all passes.
struct Index {
    const Matrix& vectors;
    const Codes& codes;
    const Search& how;
    const Kernel& kernel;
    std::size_t searched;

    const float* errors() const { return codes.errors[norm_of_prefix(searched, vectors.width)]; }

    Tile tile(std::size_t block, std::size_t count, float* room) const {
        const std::size_t row = block * kBlock, stride = block_bytes(vectors.width);
        return {count,
                codes.bytes + block * stride,
                stride,
                codes.scales + row,
                codes.lengths + row,
                errors() + row,
                vectors.data + row * vectors.width,
                std::min(count * kBlock, vectors.rows - row),
                vectors.width,
                codes.halves ? codes.halves->bytes + block * half_block_bytes(vectors.width) : nullptr,
                codes.halves ? codes.halves->scales + row : nullptr,
                codes.halves ? codes.halves->errors + row : nullptr,
                room};
    }

    std::uint16_t allowed(std::size_t block) const {
        const std::size_t rows = vectors.rows - block * kBlock;
        const std::uint32_t there = rows < kBlock ? (1u << rows) - 1 : 0xffff;
        return static_cast<std::uint16_t>(how.allowed ? there & how.allowed[block] : there);
    }
};

// A few queries, ready for the kernels.
class Pass {
public:
    Pass(const Index& index, const float* const* queries, std::size_t count)
        : searched_(index.searched),
          stride_((searched_ + kLanes - 1) / kLanes * kLanes),
          first_(count * row_bytes(searched_)),
          second_(first_.size()),
          bounds_(count),
          codes_(count),
          doubles_(count * stride_) {
        std::vector<double> rest(searched_);
        for (std::size_t q = 0; q < count; ++q) {
            const std::size_t row = q * row_bytes(searched_);
            std::int8_t* const terms[] = {first_.data() + row, second_.data() + row};
            codes_[q] = encode_query(Alone{}, queries[q], searched_, index.codes.mean, index.codes.exponent,
                                     index.kernel.limit, rest.data(),
                                     [&](int term, std::size_t j, std::int8_t code) { terms[term][j] = code; });
            bounds_[q] = codes_[q].bound;
            std::copy_n(queries[q], searched_, doubles_.data() + q * stride_);
        }
    }

    // For the float filter: codes give way to float32 products, whose error is that of their additions.
    void use_floats() {
        floats_.resize(count() * searched_);
        float_rounding_.resize(count());
        // Additions one after another in four lanes or more, and a few to join them, each of which errs by 2^-24 of
        // the sum of |q d| at most; and what rounding the query to float32 in these units loses.
        const double share = static_cast<double>(searched_ / 4 + 32) * 0x1p-24;
        for (std::size_t q = 0; q < count(); ++q) {
            for (std::size_t j = 0; j < searched_; ++j) {
                floats_[q * searched_ + j] = static_cast<float>(doubles_[q * stride_ + j] * codes_[q].unit);
            }
            float_rounding_[q] = rounded_up(share * codes_[q].bound.query_length);
            codes_[q].mean_score = 0;
            codes_[q].slack += share * codes_[q].mean_product;
        }
    }

    std::size_t count() const { return bounds_.size(); }
    const QueryCode& code(std::size_t query) const { return codes_[query]; }
    const double* doubles(std::size_t query) const { return doubles_.data() + query * stride_; }
    Queries queries() const {
        return {count(),        searched_,      first_.data(),          second_.data(),
                bounds_.data(), floats_.data(), float_rounding_.data()};
    }

private:
    std::size_t searched_, stride_;
    std::vector<std::int8_t> first_, second_;
    std::vector<Bound> bounds_;
    std::vector<QueryCode> codes_;
    std::vector<double> doubles_;
    std::vector<float> floats_, float_rounding_;
};

}  // namespace care
