// An index in pieces, for workers to claim.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <numeric>
#include <optional>

namespace care {

// The tiles of an index in an order in which the first few are spread over all of it, so that thresholds rise at
// once however the vectors are sorted.
class Tiles {
public:
    Tiles(std::size_t blocks, std::size_t tile_blocks)
        : blocks_(blocks), size_(tile_blocks), count_((blocks + size_ - 1) / size_) {
        step_ = std::max<std::size_t>(1, static_cast<std::size_t>(static_cast<double>(count_) * 0.618));
        while (std::gcd(step_, count_) > 1) ++step_;
    }

    struct Range {
        std::size_t begin, end;
    };
    std::optional<Range> claim() {
        const std::size_t place = next_.fetch_add(1, std::memory_order_relaxed);
        if (place >= count_) return std::nullopt;
        const std::size_t begin = place * step_ % count_ * size_;
        return Range{begin, std::min(blocks_, begin + size_)};
    }

private:
    std::size_t blocks_, size_, count_, step_;
    std::atomic<std::size_t> next_{0};
};

}  // namespace care
