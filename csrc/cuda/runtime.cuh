// CUDA's runtime with errors thrown and memory owned.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "primitives.cuh"

namespace care::cuda {

inline void check(cudaError_t result, const char* doing) {
    if (result == cudaSuccess) return;
    cudaGetLastError();  // or the next call would report it once more
    throw std::runtime_error(std::string(doing) + ": " + cudaGetErrorString(result));
}

// Makes a device the current one, for as long as it lives.
class OnDevice {
public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "finding the current GPU");
        if (before_ != device) check(cudaSetDevice(device), "choosing the GPU");
        changed_ = before_ != device;
    }
    ~OnDevice() {
        if (changed_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

// Memory that a stream gets and gives back, without waiting for either: from a pool that keeps what it once had.
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

// A stream that waits for no other.
class OwnStream {
public:
    OwnStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
    ~OwnStream() { cudaStreamDestroy(stream_); }
    OwnStream(const OwnStream&) = delete;
    OwnStream& operator=(const OwnStream&) = delete;

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

// Arrays that lie one behind another in one piece of memory: first all are added, then the memory is taken.
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

class Borrowed {
public:
    Borrowed(const Pool& pool, const Layout& layout, cudaStream_t stream) : stream_(stream) {
        if (layout.bytes() == 0) return;
        check(cudaMallocFromPoolAsync(&data_, layout.bytes(), pool.get(), stream), "taking GPU memory");
    }
    ~Borrowed() {
        if (data_) cudaFreeAsync(data_, stream_);
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;

    template <typename Element>
    Element* at(std::size_t start) const {
        return reinterpret_cast<Element*>(static_cast<char*>(data_) + start);
    }

private:
    cudaStream_t stream_;
    void* data_ = nullptr;
};

// What an index keeps.
template <typename Element>
class Kept {
public:
    Kept(const Element* from, std::size_t count) : bytes_(count * sizeof(Element)) {
        if (count == 0) return;
        void* found = nullptr;
        check(cudaMalloc(&found, bytes_), "taking GPU memory for the index");
        data_ = static_cast<Element*>(found);
        const cudaError_t copied = cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice);
        if (copied != cudaSuccess) cudaFree(data_);
        check(copied, "copying the index to the GPU");
    }
    ~Kept() {
        if (data_) cudaFree(data_);
    }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;

    const Element* get() const { return data_; }
    std::size_t bytes() const { return bytes_; }

private:
    std::size_t bytes_;
    Element* data_ = nullptr;
};

}  // namespace care::cuda
