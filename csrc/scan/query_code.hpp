// A query in the two terms of care/codes.hpp, and what its bounds need.
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

// What a kernel needs to bound the score of a vector from above, in float32:
//
//     scale (term[0] a.c + term[1] b.c) + query_length error + rest_length length
//
// where a.c and b.c are sums over stored codes (c + 128) less `correction`. With halves, a.c and b.c are twice the sums
// over stored ones ((c + 15) / 2) less `half_correction`, and no length is looked up:
//
//     scale (term[0] a.c + term[1] b.c + half_rest) + query_length error
//
// Either is compared with a threshold.
struct Bound {
    float term[2];
    std::int32_t correction[2];
    float query_length;    // not below |q|, and what rounding asks
    float rest_length[2];  // not below |f| with one term and with both, and what rounding asks
    std::int32_t half_correction[2];
    float half_rest;  // rest_length[1] times the longest c + r/4 that halves and quarters can have
};

struct QueryCode {
    Bound bound;
    double unit;          // an exact score times this is in the units of query and index
    double mean_score;    // q.mu, in these units
    double mean_product;  // not below |q| |mu|
    double slack;
};

// One thread that does all the work. On a GPU a block of threads shares it: their sums have another order, which
// bounds have room for.
struct Alone {
    template <typename Work>
    void each(std::size_t count, const Work& work) const {
        for (std::size_t j = 0; j < count; ++j) work(j);
    }
    // Several sums at once, so that additions do not wait for one another.
    template <typename Term>
    double sum(std::size_t count, const Term& term) const {
        double sums[kLanes] = {};
        std::size_t j = 0;
        for (; j + kLanes <= count; j += kLanes) {
            for (std::size_t i = 0; i < kLanes; ++i) sums[i] += term(j + i);
        }
        for (; j < count; ++j) sums[0] += term(j);
        return combine(sums);
    }
    template <typename Term>
    double largest(std::size_t count, const Term& term) const {
        double found = 0;
        for (std::size_t j = 0; j < count; ++j) found = std::max<double>(found, term(j));
        return found;
    }
};

// The nearest integer of a value far below 2^51, ties to the even one: nearbyint, without a call for each.
CARE_BOTH inline double nearest_integer(double value) {
    constexpr double kInTheLastPlace = 0x1.8p52;
    return (value + kInTheLastPlace) - kInTheLastPlace;
}

// Codes the first `searched` values of a query in [-limit, limit]: store(term, j, code) takes each. `rest` is room
// for as many values.
template <typename Team, typename Store>
CARE_BOTH QueryCode encode_query(const Team& team, const float* query, std::size_t searched, const float* mean,
                                 int index_exponent, int limit, double* rest, const Store& store) {
    constexpr double kRounding = 0x1p-19;
    const double largest = team.largest(searched, [&](std::size_t j) { return std::fabs(double{query[j]}); });
    int exponent = 0;
    std::frexp(largest, &exponent);
    const double query_unit = std::ldexp(1.0, -exponent), index_unit = std::ldexp(1.0, -index_exponent);

    team.each(searched, [&](std::size_t j) { rest[j] = query[j] * query_unit; });
    const auto length = [&] {
        return enlarged(std::sqrt(team.sum(searched, [&](std::size_t j) { return rest[j] * rest[j]; })));
    };
    const auto mean_value = [&](std::size_t j) { return mean[j] * index_unit; };
    const double query_length = length();
    const double mean_squares =
        team.sum(searched, [&](std::size_t j) { return mean_value(j) * mean_value(j); });

    QueryCode code;
    code.unit = query_unit * index_unit;
    code.mean_score = team.sum(searched, [&](std::size_t j) { return rest[j] * mean_value(j); });
    code.mean_product = query_length * enlarged(std::sqrt(mean_squares));
    code.slack = 0x1p-34 * code.mean_product + 0x1p-120;

    Bound& bound = code.bound;
    bound.query_length = rounded_up(query_length * (1 + kRounding));
    bound.term[0] = rounded_up(largest * query_unit / limit);
    bound.term[1] = rounded_up(double{bound.term[0]} / (2 * limit));
    for (int t = 0; t < 2; ++t) {
        // The nearest multiples of the step are taken off.
        const double step = bound.term[t], inverse = step == 0 ? 0 : 1 / step;
        const double codes = team.sum(searched, [&](std::size_t j) {
            const double near = nearest_integer(rest[j] * inverse);
            const double taken = near > limit ? limit : near < -limit ? -limit : near;
            rest[j] -= taken * step;
            store(t, j, static_cast<std::int8_t>(taken));
            return taken;
        });
        bound.correction[t] = 128 * static_cast<std::int32_t>(codes);
        bound.half_correction[t] = kMostHalf * static_cast<std::int32_t>(codes);
        // The differences are rounded too, by less than 2^-50 of the query.
        bound.rest_length[t] = rounded_up(length() + (0x1p-50 + kRounding) * query_length);
    }
    constexpr double kMost = kMostHalf + 0.25 * kMostQuarter;
    bound.half_rest = rounded_up(enlarged(bound.rest_length[1] * kMost * std::sqrt(static_cast<double>(searched))));
    return code;
}

// A vector whose exact score is `score` or better has a bound that is not below this.
CARE_BOTH inline float threshold(const QueryCode& query, double score) {
    const double scaled = score * query.unit;
    return rounded_down(scaled - query.mean_score - query.slack - 0x1p-50 * std::fabs(scaled));
}

}  // namespace care
