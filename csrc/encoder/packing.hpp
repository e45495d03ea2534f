// Weights in the layout that the kernels read.
#pragma once

#include <cstddef>
#include <vector>

#include "care/encoder.hpp"
#include "kernels/kernel.hpp"

namespace care {

// Zeroed memory, in huge pages if the system has them: weights are read sequentially.
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

// The packed weights of one or more linear maps.
class Packed {
public:
    // Concatenates the outputs of maps that have the same inputs. Each map begins with a new panel.
    static Packed of(const std::vector<Linear>& maps, Precision precision);
    // Interleaves two maps in blocks: sixteen outputs of `gate`, the same sixteen of `up`, and so on.
    static Packed of_gated(const Linear& gate, const Linear& up, Precision precision);

    // `count` panels from `first`, or all from it.
    PackedMap map(std::size_t first, std::size_t count) const;
    PackedMap from(std::size_t first) const { return map(first, biases_.size() / kPanel - first); }
    PackedMap map() const { return from(0); }
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

// A copy, padded with zeros to a multiple of kPanel.
std::vector<float> padded(const float* values, std::size_t count);

}  // namespace care
