// The part of DLPack's C interface (dmlc/dlpack, version 0.8) that exchanges arrays in GPU memory.
#pragma once

#include <cstdint>

namespace dlpack {

inline constexpr const char* kCapsule = "dltensor";
inline constexpr const char* kUsedCapsule = "used_dltensor";
inline constexpr std::int32_t kCuda = 2;
inline constexpr std::uint8_t kInt = 0, kFloat = 2;

struct Device {
    std::int32_t type;
    std::int32_t id;
};

struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t dimensions;
    DataType type;
    std::int64_t* shape;
    std::int64_t* strides;  // null if the array is row-major and contiguous
    std::uint64_t byte_offset;
};

struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor*);
};

}  // namespace dlpack
