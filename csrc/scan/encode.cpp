// Quantisation of vectors: int8 codes, int4 codes and residual codes of care/codes.hpp.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "arithmetic.hpp"
#include "care/codes.hpp"
#include "query_code.hpp"
#include "../threads/workers.hpp"

namespace care {
namespace {

constexpr std::size_t kClaimedRows = 16 * kBlock;
// A smaller scale becomes zero: the whole vector is then quantisation error.
constexpr double kMinScale = 0x1p-100;
// Int4 scales are tried from the one that covers the largest value on, each smaller than the one before: clipping a few
// values makes all others more precise.
constexpr double kInt4ScaleFactor = 0.9;
// Residual codes hardly reach what was clipped. Few vectors shall pass the int4 codes, and far fewer the residual codes:
// so much their squared error counts.
constexpr float kResidualWeight = 4;

// Writes a vector less the mean, each value times factor(j), to `centred`, and returns its largest absolute value.
template <typename Factor>
double subtract_mean(const float* vector, const float* mean, const Factor& factor, std::vector<double>& centred) {
    double largest = 0;
    for (std::size_t j = 0; j < centred.size(); ++j) {
        centred[j] = (double{vector[j]} - double{mean[j]}) * factor(j);
        largest = std::max(largest, std::abs(centred[j]));
    }
    return largest;
}

float scale_of(double wanted) { return wanted < kMinScale ? 0.0f : rounded_up(wanted); }

// The differences of subtract_mean and of the quantisation have rounded by less than 2^-51 of these norms.
float error_norm(double error, double coded) {
    return rounded_up(enlarged(error + 0x1p-50 * (error + coded)));
}

// Quantises one row to int8. `centred` is scratch memory for `width` values.
void encode_row(const float* vector, std::size_t row, std::size_t width, const float* mean, double unit,
                std::vector<double>& centred, const MutableCodes& codes) {
    const float scale = scale_of(subtract_mean(vector, mean, [unit](std::size_t) { return unit; }, centred) / 127);
    const double inverse = scale == 0 ? 0 : 1 / double{scale};

    std::uint8_t* bytes = codes.bytes + row / kBlock * block_bytes(width) + row % kBlock * kGroup;
    double code_squares = 0, error_squares = 0;
    std::size_t norm = 0;
    const auto close_norm = [&] {
        codes.errors[norm++][row] = error_norm(std::sqrt(error_squares), std::sqrt(code_squares));
    };
    for (std::size_t j = 0; j < width; ++j) {
        if (norm < error_norm_count(width) - 1 && j == kPrefixes[norm]) close_norm();
        const double code = std::clamp(std::nearbyint(centred[j] * inverse), -127.0, 127.0);
        const double value = code * scale, error = centred[j] - value;
        code_squares += value * value;
        error_squares += error * error;
        bytes[j / kGroup * kGroupBytes + j % kGroup] = static_cast<std::uint8_t>(static_cast<int>(code) + 128);
    }
    close_norm();
    for (std::size_t j = width; j < groups(width) * kGroup; ++j) {
        bytes[j / kGroup * kGroupBytes + j % kGroup] = 128;
    }
    codes.scales[row] = scale;
    codes.code_norms[row] = rounded_up(enlarged(std::sqrt(code_squares)));
}

// The nearest of 0, 1, ... `max`; NaN becomes `max`. Written so that the compiler vectorises it.
float nearest_code(float value, int max) {
    constexpr float kRoundingConstant = 0x1.8p23f;
    const float clipped = value < static_cast<float>(max) ? value : static_cast<float>(max);
    return ((clipped > 0 ? clipped : 0) + kRoundingConstant) - kRoundingConstant;
}

// Scratch memory of a worker for rows of int4 codes.
struct Int4Scratch {
    explicit Int4Scratch(std::size_t width)
        : centred(width), steps(width), codes(group_pairs(width) * 2 * kGroup),
          residuals(kResidualsPerByte * residual_bytes(width)) {}
    std::vector<double> centred;
    std::vector<float> steps;                    // the centred values, in quantisation steps of 2 s
    std::vector<std::uint8_t> codes, residuals;  // as they are stored, but one a byte; zeros beyond the width
};

// The sum of term(j), in several accumulators, so that the compiler vectorises it.
template <typename Term>
float sum_of(std::size_t width, const Term& term) {
    float sums[kBlock] = {};
    for (std::size_t start = 0; start < width; start += kBlock) {
        const std::size_t count = std::min(kBlock, width - start);
#pragma GCC unroll 1
        for (std::size_t lane = 0; lane < count; ++lane) sums[lane] += term(start + lane);
    }
    return std::accumulate(std::begin(sums), std::end(sums), 0.0f);
}

float square(float value) { return value * value; }

// The code of a value in steps, as it is stored, and its residual code.
float int4_code(float step) { return nearest_code(step + 0.5f * kMaxInt4, kMaxInt4); }
float int4_error(float step, float code) { return step + 0.5f * kMaxInt4 - code; }
float residual_code(float error) { return nearest_code(error * 4 + 0.5f * kMaxResidual, kMaxResidual); }
float residual_error(float error, float code) { return error + 0.25f * (0.5f * kMaxResidual - code); }

void convert_to_steps(Int4Scratch& scratch, float scale) {
    const double inverse = 0.5 / double{scale};
    for (std::size_t j = 0; j < scratch.centred.size(); ++j) {
        scratch.steps[j] = static_cast<float>(scratch.centred[j] * inverse);
    }
}

// The scale with the smallest quantisation errors of int4 codes and residual codes.
float best_int4_scale(Int4Scratch& scratch, double largest) {
    float best = scale_of(largest / kMaxInt4);
    double least = std::numeric_limits<double>::infinity();
    for (float scale = best; scale > 0; scale = scale_of(kInt4ScaleFactor * scale)) {
        convert_to_steps(scratch, scale);
        const double errors = sum_of(scratch.steps.size(), [&](std::size_t j) {
            const float step = scratch.steps[j], error = int4_error(step, int4_code(step));
            return square(error) + kResidualWeight * square(residual_error(error, residual_code(error)));
        });
        const double now = double{scale} * scale * errors;
        if (!(now < least)) break;
        best = scale, least = now;
    }
    return best;
}

// Quantises one row to int4 codes and residual codes: its values less the mean, each times its factor, which is the unit
// over the scale of the value. Errors are float32, in quantisation steps: each value is rounded by some 2^-22 of the
// largest code, and their sum by 2^-24 of it for each value.
void encode_int4_row(const float* vector, std::size_t row, std::size_t width, const float* mean,
                     const std::vector<double>& factors, Int4Scratch& scratch, const MutableInt4Codes& codes) {
    const double largest =
        subtract_mean(vector, mean, [&factors](std::size_t j) { return factors[j]; }, scratch.centred);
    const float scale = best_int4_scale(scratch, largest);
    float error = 0, refined_error = 0;
    if (scale > 0) {
        convert_to_steps(scratch, scale);
        error = std::sqrt(sum_of(width, [&](std::size_t j) {
            const float code = int4_code(scratch.steps[j]);
            scratch.codes[j] = static_cast<std::uint8_t>(static_cast<int>(code));
            return square(scratch.steps[j] = int4_error(scratch.steps[j], code));
        }));
        refined_error = std::sqrt(sum_of(width, [&](std::size_t j) {
            const float code = residual_code(scratch.steps[j]);
            scratch.residuals[j] = static_cast<std::uint8_t>(static_cast<int>(code));
            return square(residual_error(scratch.steps[j], code));
        }));
    }
    const double root = std::sqrt(static_cast<double>(width)), step = 2 * double{scale};
    const auto norm = [&](double steps) {
        const double rounding = 0x1p-24 * static_cast<double>(width) * steps + 0x1p-20 * (kMaxInt4 * root + steps);
        return rounded_up(step * (steps + rounding));
    };
    codes.scales[row] = scale;
    codes.errors[row] = norm(error);
    codes.residual_errors[row] = norm(refined_error);
    if (!(scale > 0)) {
        const double squares =
            SingleThread{}.sum(width, [&](std::size_t j) { return scratch.centred[j] * scratch.centred[j]; });
        codes.errors[row] = codes.residual_errors[row] = error_norm(std::sqrt(squares), 0);
    }

    std::uint8_t* bytes = codes.bytes + row / kBlock * int4_block_bytes(width) + row % kBlock * kGroup;
    for (std::size_t pair = 0; pair < group_pairs(width); ++pair) {
        const std::uint8_t* even = scratch.codes.data() + 2 * pair * kGroup;
        for (std::size_t j = 0; j < kGroup; ++j) {
            bytes[pair * kGroupBytes + j] = static_cast<std::uint8_t>(even[j] | even[kGroup + j] << 4);
        }
    }
    const std::size_t count = residual_bytes(width);
    const std::uint8_t* from = scratch.residuals.data();
    for (std::size_t j = 0; j < count; ++j) {
        const unsigned packed = from[j] | from[count + j] << 2 | from[2 * count + j] << 4 | from[3 * count + j] << 6;
        codes.residuals[row * count + j] = static_cast<std::uint8_t>(packed);
    }
}

// Calls work(row, scratch) for `count` rows from `first` on; every worker has a Scratch of its own.
template <typename Scratch, typename Work>
void for_each_row(std::size_t first, std::size_t count, std::size_t width, std::size_t threads, const Work& work) {
    const DefaultFloatEnvironment environment;
    const std::size_t pieces = (count + kClaimedRows - 1) / kClaimedRows;
    std::atomic<std::size_t> next{0};
    run_workers(std::clamp<std::size_t>(pieces, 1, std::max<std::size_t>(threads, 1)), [&](std::size_t) {
        Scratch scratch(width);
        for (std::size_t start; (start = next.fetch_add(kClaimedRows)) < count;) {
            for (std::size_t i = start; i < std::min(count, start + kClaimedRows); ++i) work(first + i, scratch);
        }
    });
}

}  // namespace

void encode(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
            int exponent, std::size_t threads, const MutableCodes& codes) {
    const double unit = std::ldexp(1.0, -exponent);
    using Centred = std::vector<double>;
    for_each_row<Centred>(first, count, width, threads, [&](std::size_t row, Centred& centred) {
        encode_row(vectors + (row - first) * width, row, width, mean, unit, centred, codes);
    });
}

void encode_int4(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
                 int exponent, const float* value_scales, std::size_t threads, const MutableInt4Codes& codes) {
    const double unit = std::ldexp(1.0, -exponent);
    std::vector<double> factors(width);
    for (std::size_t j = 0; j < width; ++j) factors[j] = unit / double{value_scales[j]};
    for_each_row<Int4Scratch>(first, count, width, threads, [&](std::size_t row, Int4Scratch& scratch) {
        encode_int4_row(vectors + (row - first) * width, row, width, mean, factors, scratch, codes);
    });
}

}  // namespace care
