// Exact search on a GPU: the same hits and the same scores as care/scan.hpp, to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "care/codes.hpp"
#include "care/scan.hpp"

namespace care::cuda {

// A cudaStream_t; null is the default stream.
using Stream = void*;

// Queries and results, in GPU memory. Arrays that are null are not written.
struct Request {
    const float* queries;  // [count][query_width]
    std::size_t count, query_width, k;
    const std::uint16_t* allowed;  // as SearchOptions::allowed, or null for all
    std::size_t allowed_count;     // number of vectors that `allowed` allows; it never changes the result
    double* scores;                // [count][k], like the next two
    float* float_scores;           // the same scores in float32
    std::int64_t* ids;
    std::int64_t* rescored;  // [count]
    // Columns of queries that are multiplied for one read of the codes, at most; 0 for as many as fit. Only benchmarks set
    // it: it never changes a hit.
    std::size_t max_columns = 0;
};

// The largest width and k that a search on a GPU supports.
std::size_t max_width();
std::size_t max_k();

// Number of GPUs. Throws std::runtime_error if CUDA can use none.
int devices();

// GPU memory for the results of a search, allocated in stream order from a cudaMemPool_t.
class DeviceArray {
public:
    DeviceArray(std::size_t bytes, int device, Stream stream, void* pool);
    ~DeviceArray();
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;

    void* data() const { return data_; }
    int device() const { return device_; }
    // Makes another stream wait for the work that the array's own stream has so far. The caller does not wait.
    void use_on(Stream stream) const;

private:
    void* data_ = nullptr;
    int device_;
    Stream stream_;
};

// An index in the memory of one GPU.
class DeviceIndex {
public:
    // Copies vectors and int8 codes. Throws std::runtime_error with CUDA's message, and std::invalid_argument.
    DeviceIndex(const Matrix& vectors, const Codes& codes, int device);
    ~DeviceIndex();
    DeviceIndex(const DeviceIndex&) = delete;
    DeviceIndex& operator=(const DeviceIndex&) = delete;

    // Enqueues a search on a stream and returns without waiting. Thread-safe. The hits of a query that is not finite
    // are undefined.
    void search(const Request& request, Stream stream) const;

    // The same for arrays in host memory; returns when the results are there.
    void search_from_host(const Request& request) const;

    // GPU memory for the results of a search on that stream.
    std::unique_ptr<DeviceArray> results(std::size_t bytes, Stream stream) const;

    // A copy of a mask of allowed vectors in GPU memory, for a search on that stream.
    std::unique_ptr<DeviceArray> copy_allowed(const std::uint16_t* allowed, Stream stream) const;

    int device() const;
    std::size_t rows() const;
    std::size_t width() const;
    // Bytes of GPU memory that the index occupies, without the scratch memory of searches.
    std::size_t bytes() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace care::cuda
