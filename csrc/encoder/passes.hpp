// How the texts of a call are divided into forward passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace care {

// The texts of one forward pass.
struct Batch {
    const std::int64_t* ids;
    const std::int64_t* lengths;
    std::size_t texts, tokens;
    float* vectors;
};

struct Passes {
    std::vector<Batch> alone;     // of one thread each, the longest first
    std::vector<Batch> together;  // of all threads, one after another
};

// Divides `call` for so many threads. Where each thread can have passes of its own, none waits for another, and each
// reads what it wrote itself; few tokens, and what is left over, are computed by all threads together.
Passes divide(const Batch& call, std::size_t width, std::size_t threads);

}  // namespace care
