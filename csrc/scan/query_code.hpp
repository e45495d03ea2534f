// A query in the two terms of care/codes.hpp, and what its bounds need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "care/codes.hpp"

namespace care {

// What a kernel needs to bound the score of a vector from above, in float32:
//
//     scale (term[0] a.c + term[1] b.c) + query_length error + rest_length length
//
// where a.c and b.c are sums over stored codes (c + 128) less `correction`. It is compared with a threshold.
struct Bound {
    float term[2];
    std::int32_t correction[2];
    float query_length;    // not below |q|, and what rounding asks
    float rest_length[2];  // not below |f| with one term and with both, and what rounding asks
};

struct QueryCode {
    Bound bound;
    double unit;        // an exact score times this is in the units of query and index
    double mean_score;    // q.mu, in these units
    double mean_product;  // not below |q| |mu|
    double slack;
};

// Codes the first `searched` values of a query into two rows of groups(searched) * kGroup bytes, in
// [-limit, limit].
QueryCode encode_query(const float* query, std::size_t searched, const Codes& codes, int limit, std::int8_t* first,
                       std::int8_t* second);

// A vector whose exact score is `score` or better has a bound that is not below this.
float threshold(const QueryCode& query, double score);

}  // namespace care
