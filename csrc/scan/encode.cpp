#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "arithmetic.hpp"
#include "care/codes.hpp"
#include "workers.hpp"

namespace care {
namespace {

constexpr std::size_t kRowsAtOnce = 16 * kBlock;
// Below it a scale is taken for zero: its vector is all error.
constexpr double kLeastScale = 0x1p-100;

// One row of codes; `rest` is room for `width` values.
void encode_row(const float* vector, std::size_t row, std::size_t width, const float* mean, double unit,
                std::vector<double>& rest, const MutableCodes& codes) {
    double largest = 0;
    for (std::size_t j = 0; j < width; ++j) {
        rest[j] = (double{vector[j]} - double{mean[j]}) * unit;
        largest = std::max(largest, std::abs(rest[j]));
    }
    const double wanted = largest / 127;
    const float scale = wanted < kLeastScale ? 0.0f : rounded_up(wanted);
    const double inverse = scale == 0 ? 0 : 1 / double{scale};

    std::uint8_t* bytes = codes.bytes + row / kBlock * block_bytes(width) + row % kBlock * kGroup;
    double coded = 0, left = 0;
    std::size_t norm = 0;
    const auto close_norm = [&] {
        // What the differences above have lost is below 2^-51 of the lengths that they add up to.
        const double error = std::sqrt(left);
        codes.errors[norm++][row] = rounded_up(enlarged(error + 0x1p-50 * (error + std::sqrt(coded))));
    };
    for (std::size_t j = 0; j < width; ++j) {
        if (norm < norms(width) - 1 && j == kPrefixes[norm]) close_norm();
        const double code = std::clamp(std::nearbyint(rest[j] * inverse), -127.0, 127.0);
        const double value = code * scale, error = rest[j] - value;
        coded += value * value;
        left += error * error;
        bytes[j / kGroup * kGroupBytes + j % kGroup] = static_cast<std::uint8_t>(static_cast<int>(code) + 128);
    }
    close_norm();
    for (std::size_t j = width; j < groups(width) * kGroup; ++j) {
        bytes[j / kGroup * kGroupBytes + j % kGroup] = 128;
    }
    codes.scales[row] = scale;
    codes.lengths[row] = rounded_up(enlarged(std::sqrt(coded)));
}

}  // namespace

void encode(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
            int exponent, std::size_t threads, const MutableCodes& codes) {
    const DefaultArithmetic arithmetic;
    const double unit = std::ldexp(1.0, -exponent);
    const std::size_t pieces = (count + kRowsAtOnce - 1) / kRowsAtOnce;
    std::atomic<std::size_t> next{0};
    run_workers(std::clamp<std::size_t>(pieces, 1, std::max<std::size_t>(threads, 1)), [&](std::size_t) {
        std::vector<double> rest(width);
        for (std::size_t start; (start = next.fetch_add(kRowsAtOnce)) < count;) {
            for (std::size_t i = start; i < std::min(count, start + kRowsAtOnce); ++i) {
                encode_row(vectors + i * width, first + i, width, mean, unit, rest, codes);
            }
        }
    });
}

}  // namespace care
