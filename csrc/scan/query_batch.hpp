// The queries of one pass, quantised for the kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "arithmetic.hpp"
#include "care/score.hpp"
#include "index_view.hpp"
#include "kernels/kernel.hpp"
#include "query_code.hpp"

namespace care {

class QueryBatch {
public:
    QueryBatch(const IndexView& index, const float* const* queries, std::size_t count)
        : query_width_(index.query_width),
          stride_((query_width_ + kLanes - 1) / kLanes * kLanes),
          query_(queries[0]),
          first_(count * query_row_bytes(query_width_)),
          second_(first_.size()),
          bounds_(count),
          codes_(count),
          doubles_(count * stride_) {
        std::vector<double> remainder(query_width_);
        for (std::size_t q = 0; q < count; ++q) {
            const std::size_t row = q * query_row_bytes(query_width_);
            std::int8_t* const terms[] = {first_.data() + row, second_.data() + row};
            codes_[q] = encode_query(SingleThread{}, queries[q], query_width_, index.codes.mean, index.codes.exponent,
                                     index.kernel.query_code_limit, remainder.data(),
                                     [&](int term, std::size_t j, std::int8_t code) { terms[term][j] = code; });
            bounds_[q] = codes_[q].bound;
            std::copy_n(queries[q], query_width_, doubles_.data() + q * stride_);
        }
    }

    // Prepares the int4 filter, for a single query of full width.
    void use_int4(const IndexView& index) {
        std::vector<double> remainder(query_width_);
        int4_terms_.resize(2 * query_row_bytes(query_width_));
        std::int8_t* const terms[] = {int4_terms_.data(), int4_terms_.data() + query_row_bytes(query_width_)};
        const Int4QueryBound bound = encode_int4_query(
            query_, query_width_, std::ldexp(codes_[0].unit, index.codes.exponent), index.codes.int4->value_scales,
            index.kernel.query_code_limit, remainder.data(),
            [&](int term, std::size_t j, std::int8_t code) { terms[term][j] = code; });
        int4_query_ = {query_width_, {terms[0], terms[1]}, bound};
    }

    // Prepares the float filter: its bounds are float32 products plus the rounding error of their sums.
    void use_floats() {
        floats_.resize(count() * query_width_);
        float_rounding_.resize(count());
        // Sums in four lanes or more, and a few additions to join them, each with an error of 2^-24 of the sum of |q d|
        // at most; and the rounding of the query to float32 in these units.
        const double share = static_cast<double>(query_width_ / 4 + 32) * 0x1p-24;
        for (std::size_t q = 0; q < count(); ++q) {
            for (std::size_t j = 0; j < query_width_; ++j) {
                floats_[q * query_width_ + j] = static_cast<float>(doubles_[q * stride_ + j] * codes_[q].unit);
            }
            float_rounding_[q] = rounded_up(share * codes_[q].bound.query_norm);
            codes_[q].mean_score = 0;
            codes_[q].slack += share * codes_[q].mean_product;
        }
    }

    std::size_t count() const { return bounds_.size(); }
    const QueryCode& code(std::size_t query) const { return codes_[query]; }
    const double* doubles(std::size_t query) const { return doubles_.data() + query * stride_; }
    const Int4Query& int4_query() const { return int4_query_; }
    Queries queries() const {
        return {count(),        query_width_,   first_.data(),          second_.data(),
                bounds_.data(), floats_.data(), float_rounding_.data(), nullptr};
    }

private:
    std::size_t query_width_, stride_;
    const float* query_;  // the first one
    std::vector<std::int8_t> first_, second_, int4_terms_;
    Int4Query int4_query_{};
    std::vector<QueryBound> bounds_;
    std::vector<QueryCode> codes_;
    std::vector<double> doubles_;
    std::vector<float> floats_, float_rounding_;
};

}  // namespace care
