// Bounds from halves, for one query: memory is the limit. Included by kernel_source.cpp alone.
#pragma once

#include "kernel.hpp"
#include "registers.hpp"

namespace care {
namespace {

void filter_halves(const Tile& tile, const Queries& queries, float threshold, std::uint16_t* masks, float* bounds) {
    const Bound& bound = queries.bounds[0];
    const std::int8_t* const terms[2] = {queries.first, queries.second};
    for (std::size_t block = 0; block < tile.blocks; ++block) {
        const std::uint8_t* bytes = tile.half_bytes + block * half_block_bytes(queries.searched);
        // Sums of even and of odd groups apart: additions do not wait for one another.
        Ints even_sums[2][kParts] = {}, odd_sums[2][kParts] = {};
        for (std::size_t pair = 0; pair < pairs(queries.searched); ++pair) {
            Bytes even[kParts], odd[kParts];
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kParts; ++p) {
                const std::uint8_t* at = bytes + pair * kGroupBytes + p * kRegisterBytes;
                const Bytes both = load<Bytes>(at);
                __builtin_prefetch(at + kBytesAhead);
                even[p] = both & 0x0f;
                odd[p] = shifted<4>(both) & 0x0f;
            }
#pragma GCC unroll 8
            for (std::size_t t = 0; t < 2; ++t) {
                const std::int32_t even_query = load<std::int32_t>(terms[t] + 2 * pair * kGroup);
                const std::int32_t odd_query = load<std::int32_t>(terms[t] + (2 * pair + 1) * kGroup);
#pragma GCC unroll 8
                for (std::size_t p = 0; p < kParts; ++p) {
                    add_products(even_sums[t][p], even[p], even_query);
                    add_products(odd_sums[t][p], odd[p], odd_query);
                }
            }
        }
        std::uint32_t mask = 0;
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kParts; ++p) {
            const std::size_t at = block * kBlock + p * kFloats;
            Floats product = {};
#pragma GCC unroll 8
            for (std::size_t t = 0; t < 2; ++t) {
                // Sums over (c + 15) / 2, doubled, less what they have too much.
                const Ints sum = 2 * (even_sums[t][p] + odd_sums[t][p]) - bound.half_correction[t];
                product += bound.term[t] * __builtin_convertvector(sum, Floats);
            }
            const Floats found = load<Floats>(tile.half_scales + at) * (product + bound.half_rest) +
                                 bound.query_length * load<Floats>(tile.half_errors + at);
            std::memcpy(bounds + at, &found, sizeof found);
            mask |= reaching(found, threshold) << (p * kFloats);
        }
        masks[block] = static_cast<std::uint16_t>(mask);
    }
}

float refined_by_quarters(const Halves& halves, std::size_t row, const Queries& queries, float bound) {
    constexpr double kTakenOff = 1 - 0x1p-18;
    const Bound& query = queries.bounds[0];
    const double error = double{halves.errors[row]} - double{halves.rest_errors[row]};
    if (!(error > 0)) return bound;  // halves left nothing to tell apart
    const std::size_t count = quarter_bytes(queries.searched);
    const std::uint8_t* quarters = halves.quarters + row * count;
    const std::int8_t* const terms[2] = {queries.first, queries.second};
    Ints sums[2][kQuarters] = {};
    for (std::size_t j = 0; j < count; j += kRegisterBytes) {
        Bytes four = load<Bytes>(quarters + j);
#pragma GCC unroll 4
        for (std::size_t part = 0; part < kQuarters; ++part) {
#pragma GCC unroll 2
            for (std::size_t t = 0; t < 2; ++t) {
                add_products(sums[t][part], four & 0x03, load<Bytes>(terms[t] + part * count + j));
            }
            four = shifted<2>(four);
        }
    }
    double product = 0;
    for (std::size_t t = 0; t < 2; ++t) {
        const Ints lanes = sums[t][0] + sums[t][1] + sums[t][2] + sums[t][3];
        std::int32_t sum = 0;
        for (std::size_t lane = 0; lane < kFloats; ++lane) sum += lanes[lane];
        // Sums over (r + 3) / 2, as with halves.
        sum = 2 * sum - query.half_correction[t] / (kMostHalf / kMostQuarter);
        product += double{query.term[t]} * sum;
    }
    return static_cast<float>(bound - kTakenOff * query.query_length * error + 0.25 * halves.scales[row] * product);
}

}  // namespace
}  // namespace care
