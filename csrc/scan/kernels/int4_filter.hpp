// The filter by int4 codes, for one query, where memory bandwidth is the limit; and residual codes to refine its
// bounds. Included by kernel_source.cpp alone.
#pragma once

#include "kernel.hpp"
#include "registers.hpp"

namespace care {
namespace {

void filter_int4(const Tile& tile, const Queries& queries, float threshold, std::uint16_t* masks, float* bounds) {
    const QueryBound& bound = queries.bounds[0];
    const std::int8_t* const terms[2] = {queries.first, queries.second};
    for (std::size_t block = 0; block < tile.blocks; ++block) {
        const std::uint8_t* bytes = tile.int4_bytes + block * int4_block_bytes(queries.query_width);
        // Separate accumulators for even and odd groups, so that additions do not wait for one another.
        Ints even_sums[2][kBlockRegisters] = {}, odd_sums[2][kBlockRegisters] = {};
        for (std::size_t pair = 0; pair < group_pairs(queries.query_width); ++pair) {
            Bytes even[kBlockRegisters], odd[kBlockRegisters];
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                const std::uint8_t* at = bytes + pair * kGroupBytes + p * kRegisterBytes;
                const Bytes both = load<Bytes>(at);
                __builtin_prefetch(at + kPrefetchBytes);
                even[p] = both & 0x0f;
                odd[p] = shift_right<4>(both) & 0x0f;
            }
#pragma GCC unroll 8
            for (std::size_t t = 0; t < 2; ++t) {
                const std::int32_t even_query = load<std::int32_t>(terms[t] + 2 * pair * kGroup);
                const std::int32_t odd_query = load<std::int32_t>(terms[t] + (2 * pair + 1) * kGroup);
#pragma GCC unroll 8
                for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                    add_products(even_sums[t][p], even[p], even_query);
                    add_products(odd_sums[t][p], odd[p], odd_query);
                }
            }
        }
        std::uint32_t mask = 0;
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kBlockRegisters; ++p) {
            const std::size_t at = block * kBlock + p * kFloats;
            Floats product = {};
#pragma GCC unroll 8
            for (std::size_t t = 0; t < 2; ++t) {
                // Sums over the stored (c + 15) / 2, doubled, less the correction for the offset.
                const Ints sum = 2 * (even_sums[t][p] + odd_sums[t][p]) - bound.int4_correction[t];
                product += bound.term_scale[t] * __builtin_convertvector(sum, Floats);
            }
            const Floats found = load<Floats>(tile.int4_scales + at) * (product + bound.int4_remainder) +
                                 bound.query_norm * load<Floats>(tile.int4_errors + at);
            std::memcpy(bounds + at, &found, sizeof found);
            mask |= at_least(found, threshold) << (p * kFloats);
        }
        masks[block] = static_cast<std::uint16_t>(mask);
    }
}

float refine_bound_by_residuals(const Int4Codes& codes, std::size_t row, const Queries& queries, float bound) {
    constexpr double kSubtractedShare = 1 - 0x1p-18;
    const QueryBound& query = queries.bounds[0];
    const double error = double{codes.errors[row]} - double{codes.residual_errors[row]};
    if (!(error > 0)) return bound;  // the residual codes do not refine this vector
    const std::size_t count = residual_bytes(queries.query_width);
    const std::uint8_t* residuals = codes.residuals + row * count;
    const std::int8_t* const terms[2] = {queries.first, queries.second};
    Ints sums[2][kResidualsPerByte] = {};
    for (std::size_t j = 0; j < count; j += kRegisterBytes) {
        Bytes packed = load<Bytes>(residuals + j);
#pragma GCC unroll 4
        for (std::size_t part = 0; part < kResidualsPerByte; ++part) {
#pragma GCC unroll 2
            for (std::size_t t = 0; t < 2; ++t) {
                add_products(sums[t][part], packed & 0x03, load<Bytes>(terms[t] + part * count + j));
            }
            packed = shift_right<2>(packed);
        }
    }
    double product = 0;
    for (std::size_t t = 0; t < 2; ++t) {
        const Ints lanes = sums[t][0] + sums[t][1] + sums[t][2] + sums[t][3];
        std::int32_t sum = 0;
        for (std::size_t lane = 0; lane < kFloats; ++lane) sum += lanes[lane];
        // Sums over the stored (r + 3) / 2, as above.
        sum = 2 * sum - query.int4_correction[t] / (kMaxInt4 / kMaxResidual);
        product += double{query.term_scale[t]} * sum;
    }
    return static_cast<float>(bound - kSubtractedShare * query.query_norm * error + 0.25 * codes.scales[row] * product);
}

}  // namespace
}  // namespace care
