#include "packing.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "../scan/arithmetic.hpp"
#include "care/codes.hpp"

namespace care {

Pages::Pages(std::size_t bytes) : size_(bytes) {
    // Huge pages are aligned to 2 MiB: reserves more, and unmaps what is outside the aligned range.
    constexpr std::size_t kHuge = 2 * 1024 * 1024;
    const std::size_t reserved = bytes + kHuge;
    void* const begin = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) throw std::bad_alloc();
    const std::size_t place = reinterpret_cast<std::size_t>(begin), start = rounded_to(place, kHuge);
    const std::size_t end = rounded_to(start + bytes, 4096);
    if (start > place) munmap(begin, start - place);
    if (place + reserved > end) munmap(reinterpret_cast<void*>(end), place + reserved - end);
    data_ = reinterpret_cast<std::byte*>(start);
#ifdef MADV_HUGEPAGE
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

Pages::~Pages() {
    if (data_) munmap(data_, size_);
}

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

std::vector<float> padded(const float* values, std::size_t count) {
    std::vector<float> longer(rounded_to(count, kPanel));
    std::copy_n(values, count, longer.begin());
    return longer;
}

Packed Packed::of(const std::vector<Linear>& maps, Precision precision) {
    std::vector<Output> outputs;
    for (const Linear& map : maps) {
        for (std::size_t o = 0; o < map.outputs; ++o) {
            outputs.push_back({map.weights + o * map.inputs, map.bias ? map.bias[o] : 0});
        }
        outputs.resize(rounded_to(outputs.size(), kPanel));
    }
    return Packed(outputs, maps.front().inputs, precision);
}

Packed Packed::of_gated(const Linear& gate, const Linear& up, Precision precision) {
    std::vector<Output> outputs(rounded_to(2 * rounded_to(gate.outputs, kBlock), kPanel));
    for (std::size_t o = 0; o < gate.outputs; ++o) {
        const std::size_t place = o / kBlock * 2 * kBlock + o % kBlock;
        outputs[place] = {gate.weights + o * gate.inputs, gate.bias ? gate.bias[o] : 0};
        outputs[place + kBlock] = {up.weights + o * up.inputs, up.bias ? up.bias[o] : 0};
    }
    return Packed(outputs, gate.inputs, precision);
}

Packed::Packed(const std::vector<Output>& outputs, std::size_t inputs, Precision precision)
    : groups_(precision == Precision::kInt8 ? groups(inputs) : inputs), biases_(outputs.size()) {
    const DefaultFloatEnvironment environment;
    const bool quantized = precision == Precision::kInt8;
    if (quantized) scales_.resize(outputs.size());
    pages_ = Pages(outputs.size() * groups_ * kWord);
    if (quantized) std::memset(pages_.data(), 128, pages_.size());
    for (std::size_t o = 0; o < outputs.size(); ++o) {
        const float* const weights = outputs[o].weights;
        biases_[o] = outputs[o].bias;
        if (!weights) continue;
        std::byte* const to = pages_.data() + o / kPanel * groups_ * kPanelGroupBytes + o % kPanel * kWord;
        if (!quantized) {
            for (std::size_t i = 0; i < inputs; ++i) std::memcpy(to + i * kPanelGroupBytes, weights + i, kWord);
            continue;
        }
        float largest = 0;
        for (std::size_t i = 0; i < inputs; ++i) {
            if (!std::isfinite(weights[i])) throw std::invalid_argument("weights must be finite to be quantised");
            largest = std::max(largest, std::abs(weights[i]));
        }
        scales_[o] = largest / 127.0f;
        const float inverse = largest >= 0x1p-100f ? 127.0f / largest : 0.0f;
        for (std::size_t i = 0; i < inputs; ++i) {
            const float code = (weights[i] * inverse + 0x1.8p23f) - 0x1.8p23f;  // the nearest integer
            to[i / kGroup * kPanelGroupBytes + i % kGroup] = static_cast<std::byte>(static_cast<int>(code) + 128);
        }
    }
}

PackedMap Packed::map(std::size_t first, std::size_t count) const {
    const float* const scales = scales_.empty() ? nullptr : scales_.data() + first * kPanel;
    return {pages_.data() + first * groups_ * kPanelGroupBytes, scales, biases_.data() + first * kPanel, groups_, count};
}

}  // namespace care
