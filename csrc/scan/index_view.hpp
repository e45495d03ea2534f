// The index and the options of one search, as all of its passes see them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "care/codes.hpp"
#include "care/scan.hpp"
#include "kernels/kernel.hpp"

namespace care {

struct IndexView {
    const Matrix& vectors;
    const Codes& codes;
    const SearchOptions& options;
    const Kernel& kernel;
    std::size_t query_width;

    const float* errors() const { return codes.errors[error_norm_of_prefix(query_width, vectors.width)]; }

    // `count` blocks, from `block`. `next` is the block that is scanned after them.
    Tile tile(std::size_t block, std::size_t count, std::optional<std::size_t> next, float* scratch) const {
        const std::size_t row = block * kBlock, stride = block_bytes(vectors.width);
        return {count,
                codes.bytes + block * stride,
                stride,
                codes.scales + row,
                codes.code_norms + row,
                errors() + row,
                vectors.data + row * vectors.width,
                std::min(count * kBlock, vectors.rows - row),
                vectors.width,
                codes.int4 ? codes.int4->bytes + block * int4_block_bytes(vectors.width) : nullptr,
                codes.int4 ? codes.int4->scales + row : nullptr,
                codes.int4 ? codes.int4->errors + row : nullptr,
                codes.int4 ? codes.int4->residuals + row * residual_bytes(vectors.width) : nullptr,
                codes.int4 ? codes.int4->residual_errors + row : nullptr,
                // A prefix of the values does not lie together.
                next && query_width == vectors.width ? codes.bytes + *next * stride : nullptr,
                scratch};
    }

    // Mask of the vectors of a block that may be found.
    std::uint16_t allowed(std::size_t block) const {
        const std::size_t rows = vectors.rows - block * kBlock;
        const std::uint32_t present = rows < kBlock ? (1u << rows) - 1 : 0xffff;
        return static_cast<std::uint16_t>(options.allowed ? present & options.allowed[block] : present);
    }
};

}  // namespace care
