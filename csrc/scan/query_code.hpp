// A query quantised in the two terms of care/codes.hpp, and the constants of its score bounds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "arithmetic.hpp"
#include "care/codes.hpp"
#include "care/host_device.hpp"
#include "care/score.hpp"

namespace care {

// The constants of a query in the upper bound of a score, in float32:
//
//     scale (term_scale[0] a.c + term_scale[1] b.c) + query_norm error + remainder_norm code_norm
//
// a.c and b.c are sums over the stored codes (c + 128) less `correction`. The bound is compared with a threshold (see
// below).
struct QueryBound {
    float term_scale[2];  // s1, s2
    std::int32_t correction[2];
    float query_norm;         // not below |q|, plus an allowance for rounding
    float remainder_norm[2];  // not below |f| with one term and with both, plus an allowance for rounding
};

// The same for int4 codes, of the query times the scales of the values. a.c and b.c are twice the sums over the stored
// codes ((c + 15) / 2) less `correction`, and the norm of the code is not looked up:
//
//     scale (term_scale[0] a.c + term_scale[1] b.c + remainder) + query_norm error
struct Int4QueryBound {
    float term_scale[2];
    std::int32_t correction[2];
    float query_norm;
    float remainder;  // not below |f| times the largest norm of c + r/4
};

struct QueryCode {
    QueryBound bound;
    double unit;          // converts an exact score to the units of query and index
    double mean_score;    // q.mu, in these units
    double mean_product;  // not below |q| |mu|
    double slack;
};

// Loops and reductions of encode_query on one thread. On a GPU the threads of a block share them (ThreadBlock): there
// sums have another order, which the bounds allow for.
struct SingleThread {
    template <typename Work>
    void for_each(std::size_t count, const Work& work) const {
        for (std::size_t j = 0; j < count; ++j) work(j);
    }
    // In several accumulators, so that additions do not wait for one another.
    template <typename Term>
    double sum(std::size_t count, const Term& term) const {
        double sums[kLanes] = {};
        std::size_t j = 0;
        for (; j + kLanes <= count; j += kLanes) {
            for (std::size_t i = 0; i < kLanes; ++i) sums[i] += term(j + i);
        }
        for (; j < count; ++j) sums[0] += term(j);
        return sum_lanes(sums);
    }
    template <typename Term>
    double max(std::size_t count, const Term& term) const {
        double found = 0;
        for (std::size_t j = 0; j < count; ++j) found = std::max<double>(found, term(j));
        return found;
    }
};

// The integer nearest to a value far below 2^51, ties to even: nearbyint without a function call.
CARE_HOST_DEVICE inline double nearest_integer(double value) {
    constexpr double kRoundingConstant = 0x1.8p52;
    return (value + kRoundingConstant) - kRoundingConstant;
}

// An upper bound of the norm of some values.
template <typename Executor>
CARE_HOST_DEVICE double norm_of(const Executor& executor, const double* values, std::size_t width) {
    return enlarged(std::sqrt(executor.sum(width, [&](std::size_t j) { return values[j] * values[j]; })));
}

// Quantises `remainder`, whose norm and largest absolute value are given, and leaves there what two terms miss.
template <typename Executor, typename Store>
CARE_HOST_DEVICE QueryBound quantise_query(const Executor& executor, double* remainder, std::size_t width,
                                           double largest, double query_norm, int limit, const Store& store) {
    constexpr double kRounding = 0x1p-19;
    QueryBound bound;
    bound.query_norm = rounded_up(query_norm * (1 + kRounding));
    bound.term_scale[0] = rounded_up(largest / limit);
    bound.term_scale[1] = rounded_up(double{bound.term_scale[0]} / (2 * limit));
    for (int t = 0; t < 2; ++t) {
        const double step = bound.term_scale[t], inverse = step == 0 ? 0 : 1 / step;
        const double code_sum = executor.sum(width, [&](std::size_t j) {
            const double near = nearest_integer(remainder[j] * inverse);
            const double quantised = near > limit ? limit : near < -limit ? -limit : near;
            remainder[j] -= quantised * step;
            store(t, j, static_cast<std::int8_t>(quantised));
            return quantised;
        });
        bound.correction[t] = 128 * static_cast<std::int32_t>(code_sum);
        // The subtractions round too, by less than 2^-50 of the query.
        bound.remainder_norm[t] = rounded_up(norm_of(executor, remainder, width) + (0x1p-50 + kRounding) * query_norm);
    }
    return bound;
}

// Quantises a query to codes in [-limit, limit]: store(term, j, code) receives each of them. `remainder` is scratch
// memory for `width` values.
template <typename Executor, typename Store>
CARE_HOST_DEVICE QueryCode encode_query(const Executor& executor, const float* query, std::size_t width,
                                        const float* mean, int index_exponent, int limit, double* remainder,
                                        const Store& store) {
    const double largest = executor.max(width, [&](std::size_t j) { return std::fabs(double{query[j]}); });
    int exponent = 0;
    std::frexp(largest, &exponent);
    const double query_unit = std::ldexp(1.0, -exponent), index_unit = std::ldexp(1.0, -index_exponent);

    executor.for_each(width, [&](std::size_t j) { remainder[j] = query[j] * query_unit; });
    const auto mean_value = [&](std::size_t j) { return mean[j] * index_unit; };
    const double query_norm = norm_of(executor, remainder, width);
    const double mean_squares = executor.sum(width, [&](std::size_t j) { return mean_value(j) * mean_value(j); });

    QueryCode code;
    code.unit = query_unit * index_unit;
    code.mean_score = executor.sum(width, [&](std::size_t j) { return remainder[j] * mean_value(j); });
    code.mean_product = query_norm * enlarged(std::sqrt(mean_squares));
    code.slack = 0x1p-34 * code.mean_product + 0x1p-120;

    code.bound = quantise_query(executor, remainder, width, largest * query_unit, query_norm, limit, store);
    return code;
}

// The same for int4 codes: quantises a query, in its units (a power of two), times the scales of the values.
template <typename Store>
Int4QueryBound encode_int4_query(const float* query, std::size_t width, double query_unit, const float* value_scales,
                                 int limit, double* remainder, const Store& store) {
    constexpr double kMaxCode = kMaxInt4 + 0.25 * kMaxResidual;
    const SingleThread executor;
    executor.for_each(width, [&](std::size_t j) { remainder[j] = query[j] * query_unit * value_scales[j]; });
    const double largest = executor.max(width, [&](std::size_t j) { return std::fabs(remainder[j]); });
    const QueryBound bound = quantise_query(executor, remainder, width, largest, norm_of(executor, remainder, width),
                                            limit, store);
    const auto correction = [&](int term) { return bound.correction[term] / 128 * kMaxInt4; };
    const double root = std::sqrt(static_cast<double>(width));
    return {{bound.term_scale[0], bound.term_scale[1]},
            {correction(0), correction(1)},
            bound.query_norm,
            rounded_up(enlarged(bound.remainder_norm[1] * kMaxCode * root))};
}

// The threshold for the bounds of a query: the bound of a vector whose exact score is at least `score` is not below it.
CARE_HOST_DEVICE inline float threshold(const QueryCode& query, double score) {
    const double scaled = score * query.unit;
    return rounded_down(scaled - query.mean_score - query.slack - 0x1p-50 * std::fabs(scaled));
}

}  // namespace care
