// Weights as the kernels read them.
#pragma once

#include <cstddef>
#include <vector>

#include "care/encoder.hpp"
#include "kernel.hpp"

namespace care {

// Zeroed memory of its own, in huge pages where the system gives them: weights are read from one end to the other.
class Pages {
public:
    Pages() = default;
    explicit Pages(std::size_t bytes);
    ~Pages();
    Pages(Pages&& other) noexcept;
    Pages& operator=(Pages&& other) noexcept;

    std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

// A packed linear map and what it points to.
class Packed {
public:
    // Maps of the same inputs one after another, each from a new panel.
    static Packed of(const std::vector<Linear>& maps, Precision precision);
    // Two maps block by block: sixteen outputs of the gate, the same of the other, and so on.
    static Packed of_gated(const Linear& gate, const Linear& up, Precision precision);

    // `count` panels from `first`.
    PackedMap map(std::size_t first, std::size_t count) const;
    PackedMap map() const { return map(0, biases_.size() / kPanel); }
    std::size_t bytes() const { return pages_.size(); }

private:
    struct Output {
        const float* weights = nullptr;
        float bias = 0;
    };
    Packed(const std::vector<Output>& outputs, std::size_t inputs, Precision precision);

    Pages pages_;
    std::size_t groups_;
    std::vector<float> scales_, biases_;
};

// Values with zeros up to a multiple of a panel.
std::vector<float> padded(const float* values, std::size_t count);

}  // namespace care
