// Exact search on a GPU: the same hits and the same scores, to the last bit, as care/scan.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "care/codes.hpp"
#include "care/scan.hpp"

namespace care::cuda {

// Any CUDA stream; null is the default one.
using Stream = void*;

// Queries and results in the GPU's memory. Arrays that are null are not written.
struct Request {
    const float* queries;  // [count][searched]
    std::size_t count, searched, k;
    const std::uint16_t* allowed;  // as Search::allowed, or null for all
    std::size_t findable;          // how many vectors that allows; it changes the time alone
    double* scores;                // [count][k], as the other two
    float* rounded;
    std::int64_t* ids;
    std::int64_t* rescored;  // [count]
};

// The widest vectors and the most hits that a search on a GPU takes.
std::size_t most_width();
std::size_t most_k();

// Throws std::runtime_error if there is no GPU that CUDA can use.
int devices();

// Memory of a GPU, from a pool of CUDA's (a cudaMemPool_t), for what a stream writes there.
class DeviceArray {
public:
    DeviceArray(std::size_t bytes, int device, Stream stream, void* pool);
    ~DeviceArray();
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;

    void* data() const { return data_; }
    int device() const { return device_; }
    // Lets another stream wait for what the array's own has been given so far; nothing waits here.
    void use_on(Stream stream) const;

private:
    void* data_ = nullptr;
    int device_;
    Stream stream_;
};

// An index in the memory of one GPU.
class DeviceIndex {
public:
    // Copies vectors and codes. Throws std::runtime_error with what CUDA says, and std::invalid_argument.
    DeviceIndex(const Matrix& vectors, const Codes& codes, int device);
    ~DeviceIndex();
    DeviceIndex(const DeviceIndex&) = delete;
    DeviceIndex& operator=(const DeviceIndex&) = delete;

    // Puts a search on a stream and returns: nothing waits for the GPU. Several threads may call it. A query that is
    // not finite finds whatever it finds.
    void search(const Request& request, Stream stream) const;

    // The same with everything in the processor's memory; returns when it is there.
    void search_from_host(const Request& request) const;

    // Memory for what a search on that stream finds.
    std::unique_ptr<DeviceArray> results(std::size_t bytes, Stream stream) const;

    // A copy of what a search on that stream may find.
    std::unique_ptr<DeviceArray> allow(const std::uint16_t* allowed, Stream stream) const;

    int device() const;
    std::size_t rows() const;
    std::size_t width() const;
    // Bytes of the GPU's memory that the index holds, without what a search borrows.
    std::size_t bytes() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace care::cuda
