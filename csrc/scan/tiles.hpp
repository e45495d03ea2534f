// The tiles of an index, for workers to claim.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <numeric>
#include <optional>

namespace care {

// Hands out tiles in an order whose first few are spread over the whole index, so that thresholds rise early even if
// the vectors are sorted.
class Tiles {
public:
    Tiles(std::size_t blocks, std::size_t tile_blocks)
        : blocks_(blocks), size_(tile_blocks), count_((blocks + size_ - 1) / size_) {
        step_ = std::max<std::size_t>(1, static_cast<std::size_t>(static_cast<double>(count_) * 0.618));
        while (std::gcd(step_, count_) > 1) ++step_;
    }

    // Blocks.
    struct Range {
        std::size_t begin, end;
    };
    // The next tile, or nothing if none is left. Thread-safe.
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
