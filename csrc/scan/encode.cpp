#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "arithmetic.hpp"
#include "care/codes.hpp"
#include "query_code.hpp"
#include "workers.hpp"

namespace care {
namespace {

constexpr std::size_t kRowsAtOnce = 16 * kBlock;
// Below it a scale is taken for zero: its vector is all error.
constexpr double kLeastScale = 0x1p-100;
// Steps of halves that are tried, as parts of the one that reaches the largest value: what a few values lose when they
// are cut, all others gain.
constexpr double kHalfSteps[] = {1, 0.8, 0.64, 0.5};

// What is coded of a vector, in units, and the largest value of it.
double take_off_mean(const float* vector, const float* mean, double unit, std::vector<double>& rest) {
    double largest = 0;
    for (std::size_t j = 0; j < rest.size(); ++j) {
        rest[j] = (double{vector[j]} - double{mean[j]}) * unit;
        largest = std::max(largest, std::abs(rest[j]));
    }
    return largest;
}

float scale_of(double wanted) { return wanted < kLeastScale ? 0.0f : rounded_up(wanted); }

// What the differences of take_off_mean and of a code have lost is below 2^-51 of the lengths that they add up to.
float error_norm(double error, double coded) {
    return rounded_up(enlarged(error + 0x1p-50 * (error + coded)));
}

// One row of codes; `rest` is room for `width` values.
void encode_row(const float* vector, std::size_t row, std::size_t width, const float* mean, double unit,
                std::vector<double>& rest, const MutableCodes& codes) {
    const float scale = scale_of(take_off_mean(vector, mean, unit, rest) / 127);
    const double inverse = scale == 0 ? 0 : 1 / double{scale};

    std::uint8_t* bytes = codes.bytes + row / kBlock * block_bytes(width) + row % kBlock * kGroup;
    double coded = 0, left = 0;
    std::size_t norm = 0;
    const auto close_norm = [&] { codes.errors[norm++][row] = error_norm(std::sqrt(left), std::sqrt(coded)); };
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

// The nearest of 0, 1, ... `most`; what is no number becomes `most`. In words that become registers.
float nearest_of(float value, int most) {
    constexpr float kInTheLastPlace = 0x1.8p23f;
    const float cut = value < static_cast<float>(most) ? value : static_cast<float>(most);
    return ((cut > 0 ? cut : 0) + kInTheLastPlace) - kInTheLastPlace;
}

// What a worker needs for a row of halves.
struct HalfRoom {
    explicit HalfRoom(std::size_t width)
        : rest(width), steps(width), halves(pairs(width) * 2 * kGroup), quarters(kQuarters * quarter_bytes(width)) {}
    std::vector<double> rest;
    std::vector<float> steps;                    // what is coded, in steps of halves
    std::vector<std::uint8_t> halves, quarters;  // as they are stored, one a byte; zeros behind the last
};

// The sum of error(j), in steps squared: in several sums, so that they become registers.
template <typename Error>
float sum_of(std::size_t width, const Error& error) {
    float sums[kBlock] = {};
    for (std::size_t start = 0; start < width; start += kBlock) {
        const std::size_t count = std::min(kBlock, width - start);
#pragma GCC unroll 1
        for (std::size_t lane = 0; lane < count; ++lane) {
            const float value = error(start + lane);
            sums[lane] += value * value;
        }
    }
    return std::accumulate(std::begin(sums), std::end(sums), 0.0f);
}

void take_steps(HalfRoom& room, float scale) {
    const double inverse = 0.5 / double{scale};
    for (std::size_t j = 0; j < room.rest.size(); ++j) room.steps[j] = static_cast<float>(room.rest[j] * inverse);
}

// The scale whose step suits a row best.
float half_scale(HalfRoom& room, double largest) {
    float best = scale_of(largest / kMostHalf);
    double least = std::numeric_limits<double>::infinity();
    for (const double part : kHalfSteps) {
        const float scale = scale_of(part * largest / kMostHalf);
        if (scale == 0) break;
        take_steps(room, scale);
        const double error = scale * std::sqrt(sum_of(room.steps.size(), [&](std::size_t j) {
            return room.steps[j] + 0.5f * kMostHalf - nearest_of(room.steps[j] + 0.5f * kMostHalf, kMostHalf);
        }));
        if (error < least) best = scale, least = error;
    }
    return best;
}

// One row of halves and quarters. Errors are float32 in steps: of each the roundings are some 2^-22 of the longest code, and
// those of their sum are 2^-24 of it for each value.
void encode_half_row(const float* vector, std::size_t row, std::size_t width, const float* mean, double unit,
                     HalfRoom& room, const MutableHalves& halves) {
    const double largest = take_off_mean(vector, mean, unit, room.rest);
    const float scale = half_scale(room, largest);
    float error = 0, rest_error = 0;
    if (scale > 0) {
        take_steps(room, scale);
        const auto half_error = [&](std::size_t j) {
            const float half = nearest_of(room.steps[j] + 0.5f * kMostHalf, kMostHalf);
            room.halves[j] = static_cast<std::uint8_t>(static_cast<int>(half));
            return room.steps[j] = room.steps[j] + 0.5f * kMostHalf - half;
        };
        const auto quarter_error = [&](std::size_t j) {
            const float quarter = nearest_of(room.steps[j] * 4 + 0.5f * kMostQuarter, kMostQuarter);
            room.quarters[j] = static_cast<std::uint8_t>(static_cast<int>(quarter));
            return room.steps[j] + 0.25f * (0.5f * kMostQuarter - quarter);
        };
        error = std::sqrt(sum_of(width, half_error));
        rest_error = std::sqrt(sum_of(width, quarter_error));
    }
    const double root = std::sqrt(static_cast<double>(width)), step = 2 * double{scale};
    const auto norm = [&](double steps) {
        const double rounding = 0x1p-24 * static_cast<double>(width) * steps + 0x1p-20 * (kMostHalf * root + steps);
        return rounded_up(step * (steps + rounding));
    };
    halves.scales[row] = scale;
    halves.errors[row] = norm(error);
    halves.rest_errors[row] = norm(rest_error);
    if (!(scale > 0)) {
        const double all = Alone{}.sum(width, [&](std::size_t j) { return room.rest[j] * room.rest[j]; });
        halves.errors[row] = halves.rest_errors[row] = error_norm(std::sqrt(all), 0);
    }

    std::uint8_t* bytes = halves.bytes + row / kBlock * half_block_bytes(width) + row % kBlock * kGroup;
    for (std::size_t pair = 0; pair < pairs(width); ++pair) {
        const std::uint8_t* even = room.halves.data() + 2 * pair * kGroup;
        for (std::size_t j = 0; j < kGroup; ++j) {
            bytes[pair * kGroupBytes + j] = static_cast<std::uint8_t>(even[j] | even[kGroup + j] << 4);
        }
    }
    const std::size_t count = quarter_bytes(width);
    const std::uint8_t* from = room.quarters.data();
    for (std::size_t j = 0; j < count; ++j) {
        const unsigned all = from[j] | from[count + j] << 2 | from[2 * count + j] << 4 | from[3 * count + j] << 6;
        halves.quarters[row * count + j] = static_cast<std::uint8_t>(all);
    }
}

// Calls work(row, room) for `count` rows from `first` on, with a Room of each worker's own.
template <typename Room, typename Work>
void for_each_row(std::size_t first, std::size_t count, std::size_t width, std::size_t threads, const Work& work) {
    const DefaultArithmetic arithmetic;
    const std::size_t pieces = (count + kRowsAtOnce - 1) / kRowsAtOnce;
    std::atomic<std::size_t> next{0};
    run_workers(std::clamp<std::size_t>(pieces, 1, std::max<std::size_t>(threads, 1)), [&](std::size_t) {
        Room room(width);
        for (std::size_t start; (start = next.fetch_add(kRowsAtOnce)) < count;) {
            for (std::size_t i = start; i < std::min(count, start + kRowsAtOnce); ++i) work(first + i, room);
        }
    });
}

}  // namespace

void encode(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
            int exponent, std::size_t threads, const MutableCodes& codes) {
    const double unit = std::ldexp(1.0, -exponent);
    for_each_row<std::vector<double>>(first, count, width, threads, [&](std::size_t row, std::vector<double>& rest) {
        encode_row(vectors + (row - first) * width, row, width, mean, unit, rest, codes);
    });
}

void encode_halves(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
                   int exponent, std::size_t threads, const MutableHalves& halves) {
    const double unit = std::ldexp(1.0, -exponent);
    for_each_row<HalfRoom>(first, count, width, threads, [&](std::size_t row, HalfRoom& room) {
        encode_half_row(vectors + (row - first) * width, row, width, mean, unit, room, halves);
    });
}

}  // namespace care
