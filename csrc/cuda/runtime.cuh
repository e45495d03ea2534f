// RAII wrappers of the CUDA runtime; errors become exceptions.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "primitives.cuh"

namespace care::cuda {

inline void check(cudaError_t result, const char* doing) {
    if (result == cudaSuccess) return;
    cudaGetLastError();  // clears it, or the next call would report it again
    throw std::runtime_error(std::string(doing) + ": " + cudaGetErrorString(result));
}

// Makes a device current for its scope.
class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "finding the current GPU");
        if (before_ != device) check(cudaSetDevice(device), "choosing the GPU");
        changed_ = before_ != device;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

// A memory pool for stream-ordered allocation. It keeps freed memory for the next search.
class Pool {
public:
    explicit Pool(int device) {
        cudaMemPoolProps properties{};
        properties.allocType = cudaMemAllocationTypePinned;
        properties.location = {cudaMemLocationTypeDevice, device};
        check(cudaMemPoolCreate(&pool_, &properties), "making a memory pool");
        std::uint64_t kept = ~std::uint64_t{0};
        check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &kept), "setting up a memory pool");
    }
    ~Pool() { cudaMemPoolDestroy(pool_); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    cudaMemPool_t get() const { return pool_; }

private:
    cudaMemPool_t pool_ = nullptr;
};

// A stream that does not synchronise with the default stream.
class NonBlockingStream {
public:
    NonBlockingStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
    ~NonBlockingStream() { cudaStreamDestroy(stream_); }
    NonBlockingStream(const NonBlockingStream&) = delete;
    NonBlockingStream& operator=(const NonBlockingStream&) = delete;

    cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class Event {
public:
    Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event"); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    cudaEvent_t get() const { return event_; }

private:
    cudaEvent_t event_ = nullptr;
};

// The layout of several arrays in one allocation: add all, then allocate bytes().
class Layout {
public:
    template <typename Element>
    std::size_t add(std::size_t count) {
        constexpr std::size_t kAligned = 256;
        const std::size_t start = bytes_;
        bytes_ += (count * sizeof(Element) + kAligned - 1) / kAligned * kAligned;
        return start;
    }
    std::size_t bytes() const { return bytes_; }

private:
    std::size_t bytes_ = 0;
};

// One stream-ordered allocation from a pool, with a Layout.
class ScratchMemory {
public:
    ScratchMemory(const Pool& pool, const Layout& layout, cudaStream_t stream) : stream_(stream) {
        if (layout.bytes() == 0) return;
        check(cudaMallocFromPoolAsync(&data_, layout.bytes(), pool.get(), stream), "allocating GPU memory");
    }
    ~ScratchMemory() {
        if (data_) cudaFreeAsync(data_, stream_);
    }
    ScratchMemory(const ScratchMemory&) = delete;
    ScratchMemory& operator=(const ScratchMemory&) = delete;

    template <typename Element>
    Element* at(std::size_t start) const {
        return reinterpret_cast<Element*>(static_cast<char*>(data_) + start);
    }

private:
    cudaStream_t stream_;
    void* data_ = nullptr;
};

// A copy of host memory on the GPU.
template <typename Element>
class DeviceBuffer {
public:
    DeviceBuffer(const Element* from, std::size_t count) : bytes_(count * sizeof(Element)) {
        if (count == 0) return;
        void* found = nullptr;
        check(cudaMalloc(&found, bytes_), "allocating GPU memory for the index");
        data_ = static_cast<Element*>(found);
        const cudaError_t copied = cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice);
        if (copied != cudaSuccess) cudaFree(data_);
        check(copied, "copying the index to the GPU");
    }
    ~DeviceBuffer() {
        if (data_) cudaFree(data_);
    }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;

    const Element* get() const { return data_; }
    std::size_t bytes() const { return bytes_; }

private:
    std::size_t bytes_;
    Element* data_ = nullptr;
};

}  // namespace care::cuda
