// The CUDA part of care_accel._native: NumPy arrays in host memory, or arrays in GPU memory through DLPack.
#include <memory>
#include <optional>
#include <vector>

#include <pybind11/stl.h>

#include "care/cuda.hpp"
#include "dlpack.hpp"
#include "shapes.hpp"

namespace {

using care::cuda::DeviceArray;
using care::cuda::DeviceIndex;

// DLPack's number of a stream: 1 is the default stream, which is null in CUDA.
care::cuda::Stream stream_of(std::uintptr_t number) {
    return number == 1 ? nullptr : reinterpret_cast<care::cuda::Stream>(number);
}
std::uintptr_t number_of(std::uintptr_t stream) { return stream == 0 ? 1 : stream; }

// Queries of another library, in GPU memory.
class Imported {
public:
    Imported(const py::object& array, std::uintptr_t stream)
        : capsule_(array.attr("__dlpack__")(py::arg("stream") = number_of(stream))) {
        managed_ = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), dlpack::kCapsule));
        if (!managed_) throw py::error_already_set();
        PyCapsule_SetName(capsule_.ptr(), dlpack::kUsedCapsule);
    }
    ~Imported() {
        if (managed_->deleter) managed_->deleter(managed_);
    }
    Imported(const Imported&) = delete;
    Imported& operator=(const Imported&) = delete;

    // The tensor as float32, row-major, on that device.
    care::Matrix matrix(int device) const {
        const dlpack::Tensor& tensor = managed_->tensor;
        require(tensor.device.type == dlpack::kCuda && tensor.device.id == device,
                "queries must be on the GPU of the index");
        require(tensor.dimensions == 2, "queries must have two dimensions");
        require(tensor.type.code == dlpack::kFloat && tensor.type.bits == 32 && tensor.type.lanes == 1,
                "queries must be float32");
        require(!tensor.strides || tensor.shape[0] <= 1 ||
                    (tensor.strides[1] == 1 && tensor.strides[0] == tensor.shape[1]),
                "queries must be row-major");
        return {reinterpret_cast<const float*>(static_cast<const char*>(tensor.data) + tensor.byte_offset),
                static_cast<std::size_t>(tensor.shape[0]), static_cast<std::size_t>(tensor.shape[1])};
    }

private:
    py::object capsule_;
    dlpack::ManagedTensor* managed_;
};

// Results in GPU memory, for any library that supports DLPack.
struct Exported {
    std::shared_ptr<DeviceArray> memory;
    void* data;
    std::vector<std::int64_t> shape;
    dlpack::DataType type;

    py::tuple device() const { return py::make_tuple(dlpack::kCuda, memory->device()); }

    py::capsule capsule(const py::object& stream, const py::kwargs&) const {
        memory->use_on(stream_of(stream.is_none() ? 1 : stream.cast<std::uintptr_t>()));
        struct Owner {
            std::shared_ptr<DeviceArray> memory;
            std::vector<std::int64_t> shape;
            dlpack::ManagedTensor managed;
        };
        auto owner = std::make_unique<Owner>(Owner{memory, shape, {}});
        owner->managed.tensor = {data, {dlpack::kCuda, memory->device()},
                                 static_cast<std::int32_t>(shape.size()), type, owner->shape.data(), nullptr, 0};
        owner->managed.context = owner.get();
        owner->managed.deleter = [](dlpack::ManagedTensor* managed) { delete static_cast<Owner*>(managed->context); };
        return py::capsule(&owner.release()->managed, dlpack::kCapsule, [](PyObject* capsule) {
            // A consumer renames the capsule and frees the array itself.
            if (!PyCapsule_IsValid(capsule, dlpack::kCapsule)) return;
            auto* left = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, dlpack::kCapsule));
            left->deleter(left);
        });
    }
};

std::unique_ptr<DeviceIndex> copy_index(const Array<float>& vectors, const Array<std::uint8_t>& bytes,
                                        const Array<float>& norms, const Array<float>& mean, int exponent,
                                        int device) {
    const care::Matrix rows = matrix(vectors, "vectors");
    const CodeArrays arrays(bytes, norms, mean, exponent, rows.rows, rows.width);
    py::gil_scoped_release release;
    return std::make_unique<DeviceIndex>(rows, arrays.codes(), device);
}

care::cuda::Request make_request(const DeviceIndex& index, const care::Matrix& queries, std::size_t k,
                                 const std::optional<Array<std::uint16_t>>& allowed, std::size_t allowed_count,
                                 std::size_t max_columns) {
    require(queries.width >= 1 && queries.width <= index.width(), "queries must not be wider than the vectors");
    if (allowed) require_allowed(*allowed, index.rows());
    care::cuda::Request request{};
    request.queries = queries.data;
    request.count = queries.rows;
    request.query_width = queries.width;
    request.k = k;
    request.allowed = allowed ? allowed->data() : nullptr;
    request.allowed_count = allowed_count;
    request.max_columns = max_columns;
    return request;
}

py::tuple search(const DeviceIndex& index, const Array<float>& queries, std::size_t k,
                 const std::optional<Array<std::uint16_t>>& allowed, std::size_t allowed_count,
                 std::size_t max_columns) {
    const care::Matrix rows = matrix(queries, "queries");
    care::cuda::Request request = make_request(index, rows, k, allowed, allowed_count, max_columns);
    Array<double> scores({rows.rows, k});
    Array<std::int64_t> ids({rows.rows, k}), rescored(static_cast<py::ssize_t>(rows.rows));
    request.scores = scores.mutable_data();
    request.ids = ids.mutable_data();
    request.rescored = rescored.mutable_data();
    {
        py::gil_scoped_release release;
        index.search_from_host(request);
    }
    return py::make_tuple(scores, ids, rescored);
}

py::tuple search_on_device(const DeviceIndex& index, const py::object& queries, std::size_t k,
                           const std::optional<Array<std::uint16_t>>& allowed, std::size_t allowed_count,
                           std::uintptr_t stream_number, std::size_t max_columns) {
    const Imported imported(queries, stream_number);
    const care::cuda::Stream stream = stream_of(stream_number);
    const care::Matrix rows = imported.matrix(index.device());
    care::cuda::Request request = make_request(index, rows, k, allowed, allowed_count, max_columns);
    // One allocation: the ids, then the scores, with the alignment that DLPack requires.
    constexpr std::size_t kAlignment = 256;
    const std::size_t hits = rows.rows * k;
    const std::size_t scores_at = (hits * sizeof(std::int64_t) + kAlignment - 1) / kAlignment * kAlignment;
    const std::shared_ptr<DeviceArray> results = index.results(scores_at + hits * sizeof(float), stream);
    request.ids = static_cast<std::int64_t*>(results->data());
    request.float_scores = reinterpret_cast<float*>(static_cast<char*>(results->data()) + scores_at);
    {
        py::gil_scoped_release release;
        const auto copy = allowed ? index.copy_allowed(request.allowed, stream) : nullptr;
        if (copy) request.allowed = static_cast<const std::uint16_t*>(copy->data());
        index.search(request, stream);
    }
    const std::vector<std::int64_t> shape{static_cast<std::int64_t>(rows.rows), static_cast<std::int64_t>(k)};
    return py::make_tuple(Exported{results, request.float_scores, shape, {dlpack::kFloat, 32, 1}},
                          Exported{results, request.ids, shape, {dlpack::kInt, 64, 1}});
}

}  // namespace

void bind_cuda(py::module_& module) {
    module.attr("CUDA_MAX_WIDTH") = care::cuda::max_width();
    module.attr("CUDA_MAX_K") = care::cuda::max_k();
    module.def("cuda_devices", &care::cuda::devices, "Return the number of GPUs.");
    py::class_<Exported>(module, "CudaArray", "An array in GPU memory, for any library that supports DLPack.")
        .def_readonly("shape", &Exported::shape)
        .def("__dlpack_device__", &Exported::device)
        .def("__dlpack__", &Exported::capsule, py::arg("stream") = py::none());
    py::class_<DeviceIndex>(module, "CudaIndex", "An index in GPU memory; see csrc/include/care/cuda.hpp.")
        .def(py::init(&copy_index), py::arg("vectors").noconvert(), py::kw_only(), py::arg("bytes").noconvert(),
             py::arg("norms").noconvert(), py::arg("mean").noconvert(), py::arg("exponent"), py::arg("device"))
        .def_property_readonly("nbytes", &DeviceIndex::bytes)
        .def("search", &search, py::arg("queries").noconvert(), py::arg("k"),
             py::arg("allowed").noconvert() = py::none(), py::arg("allowed_count"), py::arg("max_columns") = 0,
             "Return (scores, ids, rescored) as `_native.search` does.")
        .def("search_on_device", &search_on_device, py::arg("queries"), py::arg("k"),
             py::arg("allowed").noconvert() = py::none(), py::arg("allowed_count"), py::arg("stream"),
             py::arg("max_columns") = 0,
             "Return (scores, ids) in GPU memory, for queries in GPU memory.");
}
