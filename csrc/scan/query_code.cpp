#include "query_code.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "arithmetic.hpp"

namespace care {
namespace {

constexpr double kRounding = 0x1p-19;

double length(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value * value;
    return enlarged(std::sqrt(sum));
}

// Takes the nearest multiples of `step` off the values and keeps them as codes.
std::int32_t take_off(std::vector<double>& values, double step, int limit, std::int8_t* codes) {
    std::int32_t sum = 0;
    for (std::size_t j = 0; j < values.size(); ++j) {
        const double code = step == 0 ? 0 : std::clamp<double>(std::nearbyint(values[j] / step), -limit, limit);
        values[j] -= code * step;
        codes[j] = static_cast<std::int8_t>(code);
        sum += codes[j];
    }
    return 128 * sum;
}

}  // namespace

QueryCode encode_query(const float* query, std::size_t searched, const Codes& codes, int limit, std::int8_t* first,
                       std::int8_t* second) {
    float largest = 0;
    for (std::size_t j = 0; j < searched; ++j) largest = std::max(largest, std::abs(query[j]));
    int exponent = 0;
    std::frexp(largest, &exponent);
    const double query_unit = std::ldexp(1.0, -exponent), index_unit = std::ldexp(1.0, -codes.exponent);

    std::vector<double> rest(searched);
    double mean_score = 0, mean_length = 0;
    for (std::size_t j = 0; j < searched; ++j) {
        const double mean = codes.mean[j] * index_unit;
        rest[j] = query[j] * query_unit;
        mean_score += rest[j] * mean;
        mean_length += mean * mean;
    }
    const double query_length = length(rest);

    QueryCode code;
    Bound& bound = code.bound;
    std::fill_n(first, groups(searched) * kGroup, std::int8_t{0});
    std::fill_n(second, groups(searched) * kGroup, std::int8_t{0});
    bound.term[0] = rounded_up(largest * query_unit / limit);
    bound.term[1] = rounded_up(double{bound.term[0]} / (2 * limit));
    std::int8_t* const rows[] = {first, second};
    for (int t = 0; t < 2; ++t) {
        bound.correction[t] = take_off(rest, bound.term[t], limit, rows[t]);
        // The differences are rounded too, by less than 2^-50 of the query.
        bound.rest_length[t] = rounded_up(length(rest) + (0x1p-50 + kRounding) * query_length);
    }
    bound.query_length = rounded_up(query_length * (1 + kRounding));
    code.unit = query_unit * index_unit;
    code.mean_score = mean_score;
    code.mean_product = query_length * enlarged(std::sqrt(mean_length));
    code.slack = 0x1p-34 * code.mean_product + 0x1p-120;
    return code;
}

float threshold(const QueryCode& query, double score) {
    const double scaled = score * query.unit;
    return rounded_down(scaled - query.mean_score - query.slack - 0x1p-50 * std::abs(scaled));
}

}  // namespace care
