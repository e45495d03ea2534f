#include "tensors.hpp"

#include <cstring>
#include <limits>
#include <string_view>

#include "errors.hpp"

namespace care::backend {
namespace {

using Shape = std::vector<py::ssize_t>;

// The server writes the length of a text of a BYTES tensor before it, in 4 bytes.
using Length = std::uint32_t;

struct Type {
    TRITONSERVER_DataType type;
    char kind;  // of NumPy: b, i, u or f
    int bytes;
    const char* format;
};

constexpr Type kTypes[] = {
    {TRITONSERVER_TYPE_BOOL, 'b', 1, "?"},   {TRITONSERVER_TYPE_UINT8, 'u', 1, "u1"},
    {TRITONSERVER_TYPE_UINT16, 'u', 2, "u2"}, {TRITONSERVER_TYPE_UINT32, 'u', 4, "u4"},
    {TRITONSERVER_TYPE_UINT64, 'u', 8, "u8"}, {TRITONSERVER_TYPE_INT8, 'i', 1, "i1"},
    {TRITONSERVER_TYPE_INT16, 'i', 2, "i2"},  {TRITONSERVER_TYPE_INT32, 'i', 4, "i4"},
    {TRITONSERVER_TYPE_INT64, 'i', 8, "i8"},  {TRITONSERVER_TYPE_FP16, 'f', 2, "f2"},
    {TRITONSERVER_TYPE_FP32, 'f', 4, "f4"},   {TRITONSERVER_TYPE_FP64, 'f', 8, "f8"},
};

std::string_view part_of(TRITONBACKEND_Input* input, std::uint32_t index) {
    const void* data = nullptr;
    std::uint64_t size = 0;
    auto memory = TRITONSERVER_MEMORY_CPU;
    std::int64_t id = 0;
    check(TRITONBACKEND_InputBuffer(input, index, &data, &size, &memory, &id));
    if (memory == TRITONSERVER_MEMORY_GPU)
        throw Error("inputs on a GPU are not supported in the server's process", TRITONSERVER_ERROR_UNSUPPORTED);
    return {static_cast<const char*>(data), size};
}

[[noreturn]] void wrong_size(const char* name) {
    throw Error(std::string("the data of input '") + name + "' do not match its shape", TRITONSERVER_ERROR_INVALID_ARG);
}

py::array texts_of(std::string_view data, const Shape& shape, const char* name) {
    py::array values(py::dtype("O"), shape);  // NumPy fills it with None
    auto** items = static_cast<PyObject**>(values.mutable_data());
    for (py::ssize_t i = 0; i < values.size(); ++i) {
        Length length = 0;
        if (data.size() < sizeof(length)) wrong_size(name);
        std::memcpy(&length, data.data(), sizeof(length));
        data.remove_prefix(sizeof(length));
        if (data.size() < length) wrong_size(name);
        py::object text = py::bytes(data.data(), length);
        data.remove_prefix(length);
        PyObject* former = items[i];
        items[i] = text.release().ptr();
        Py_XDECREF(former);
    }
    if (!data.empty()) wrong_size(name);
    return values;
}

char* allocate(TRITONBACKEND_Response* response, const Tensor& tensor, TRITONSERVER_DataType type, std::uint64_t size) {
    const std::vector<std::int64_t> shape(tensor.values.shape(), tensor.values.shape() + tensor.values.ndim());
    TRITONBACKEND_Output* output = nullptr;
    check(TRITONBACKEND_ResponseOutput(response, &output, tensor.name.c_str(), type, shape.data(),
                                       static_cast<std::uint32_t>(shape.size())));
    void* memory = nullptr;
    auto kind = TRITONSERVER_MEMORY_CPU;
    std::int64_t id = 0;
    check(TRITONBACKEND_OutputBuffer(output, &memory, size, &kind, &id));
    if (kind == TRITONSERVER_MEMORY_GPU)
        throw Error("outputs on a GPU are not supported in the server's process", TRITONSERVER_ERROR_UNSUPPORTED);
    return static_cast<char*>(memory);
}

void write_texts(TRITONBACKEND_Response* response, const Tensor& tensor) {
    const auto* items = static_cast<PyObject* const*>(tensor.values.data());
    std::uint64_t size = 0;
    for (py::ssize_t i = 0; i < tensor.values.size(); ++i) {
        if (!PyBytes_Check(items[i]) || PyBytes_GET_SIZE(items[i]) > std::numeric_limits<Length>::max())
            throw Error("output '" + tensor.name + "' has a value that is not bytes, or more than 4 GB of them");
        size += sizeof(Length) + static_cast<std::uint64_t>(PyBytes_GET_SIZE(items[i]));
    }
    char* end = allocate(response, tensor, TRITONSERVER_TYPE_BYTES, size);
    for (py::ssize_t i = 0; i < tensor.values.size(); ++i) {
        const auto length = static_cast<Length>(PyBytes_GET_SIZE(items[i]));
        std::memcpy(end, &length, sizeof(length));
        std::memcpy(end + sizeof(length), PyBytes_AS_STRING(items[i]), length);
        end += sizeof(length) + length;
    }
}

}  // namespace

Tensor read_input(TRITONBACKEND_Input* input) {
    const char* name = nullptr;
    auto type = TRITONSERVER_TYPE_INVALID;
    const std::int64_t* dims = nullptr;
    std::uint32_t dim_count = 0, part_count = 0;
    std::uint64_t size = 0;
    check(TRITONBACKEND_InputProperties(input, &name, &type, &dims, &dim_count, &size, &part_count));
    const Shape shape(dims, dims + dim_count);
    if (type == TRITONSERVER_TYPE_BYTES) {
        if (part_count == 1) return {name, texts_of(part_of(input, 0), shape, name)};
        std::string whole;
        for (std::uint32_t i = 0; i < part_count; ++i) whole += part_of(input, i);
        return {name, texts_of(whole, shape, name)};
    }
    for (const Type& known : kTypes) {
        if (known.type != type) continue;
        py::array values(py::dtype(known.format), shape);
        if (static_cast<std::uint64_t>(values.nbytes()) != size) wrong_size(name);
        auto* end = static_cast<char*>(values.mutable_data());
        for (std::uint32_t i = 0; i < part_count; ++i) {
            const std::string_view part = part_of(input, i);
            end = std::copy(part.begin(), part.end(), end);
        }
        return {name, std::move(values)};
    }
    throw Error(std::string("input '") + name + "' has a type that NumPy has not", TRITONSERVER_ERROR_UNSUPPORTED);
}

void write_output(TRITONBACKEND_Response* response, const Tensor& tensor) {
    const py::array whole = py::array::ensure(tensor.values, py::array::c_style);
    const Tensor dense{tensor.name, whole};
    const char kind = whole.dtype().kind();
    if (kind == 'O') return write_texts(response, dense);
    for (const Type& known : kTypes) {
        if (known.kind != kind || known.bytes != whole.itemsize()) continue;
        const auto size = static_cast<std::size_t>(whole.nbytes());
        std::memcpy(allocate(response, dense, known.type, size), whole.data(), size);
        return;
    }
    throw Error("output '" + tensor.name + "' has a type that the server has not");
}

}  // namespace care::backend
