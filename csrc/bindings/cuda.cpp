// The GPU's part of care_accel._native: NumPy arrays, or arrays on the GPU by way of DLPack.
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

// DLPack's number for a stream: none and 1 are the default one, which CUDA calls null.
care::cuda::Stream stream_of(std::uintptr_t number) {
    return number == 1 ? nullptr : reinterpret_cast<care::cuda::Stream>(number);
}
std::uintptr_t number_of(std::uintptr_t stream) { return stream == 0 ? 1 : stream; }

// Queries that another library has on the GPU.
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

    // float32, row after row, on that device.
    care::Matrix matrix(int device) const {
        const dlpack::Tensor& tensor = managed_->tensor;
        require(tensor.device.type == dlpack::kCuda && tensor.device.id == device, "queries must be on the index's GPU");
        require(tensor.dimensions == 2, "queries must have two dimensions");
        require(tensor.type.code == dlpack::kFloat && tensor.type.bits == 32 && tensor.type.lanes == 1,
                "queries must be float32");
        require(!tensor.strides || tensor.shape[0] <= 1 ||
                    (tensor.strides[1] == 1 && tensor.strides[0] == tensor.shape[1]),
                "queries must lie row after row");
        return {reinterpret_cast<const float*>(static_cast<const char*>(tensor.data) + tensor.byte_offset),
                static_cast<std::size_t>(tensor.shape[0]), static_cast<std::size_t>(tensor.shape[1])};
    }

private:
    py::object capsule_;
    dlpack::ManagedTensor* managed_;
};

// Results on the GPU, for whatever library takes them.
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
            // Whoever took the array has renamed the capsule, and frees it.
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

care::cuda::Request request(const DeviceIndex& index, const care::Matrix& queries, std::size_t k,
                            const std::optional<Array<std::uint16_t>>& allowed, std::size_t findable) {
    require(queries.width >= 1 && queries.width <= index.width(), "queries must not be wider than the vectors");
    if (allowed) require_allowed(*allowed, index.rows());
    care::cuda::Request asked{};
    asked.queries = queries.data;
    asked.count = queries.rows;
    asked.searched = queries.width;
    asked.k = k;
    asked.allowed = allowed ? allowed->data() : nullptr;
    asked.findable = findable;
    return asked;
}

py::tuple search(const DeviceIndex& index, const Array<float>& queries, std::size_t k,
                 const std::optional<Array<std::uint16_t>>& allowed, std::size_t findable) {
    const care::Matrix rows = matrix(queries, "queries");
    care::cuda::Request asked = request(index, rows, k, allowed, findable);
    Array<double> scores({rows.rows, k});
    Array<std::int64_t> ids({rows.rows, k}), rescored(static_cast<py::ssize_t>(rows.rows));
    asked.scores = scores.mutable_data();
    asked.ids = ids.mutable_data();
    asked.rescored = rescored.mutable_data();
    {
        py::gil_scoped_release release;
        index.search_from_host(asked);
    }
    return py::make_tuple(scores, ids, rescored);
}

py::tuple search_on_device(const DeviceIndex& index, const py::object& queries, std::size_t k,
                           const std::optional<Array<std::uint16_t>>& allowed, std::size_t findable,
                           std::uintptr_t stream_number) {
    const Imported imported(queries, stream_number);
    const care::cuda::Stream stream = stream_of(stream_number);
    const care::Matrix rows = imported.matrix(index.device());
    care::cuda::Request asked = request(index, rows, k, allowed, findable);
    // Scores lie behind the ids, from an address that DLPack's readers take.
    constexpr std::size_t kAligned = 256;
    const std::size_t hits = rows.rows * k;
    const std::size_t scores_at = (hits * sizeof(std::int64_t) + kAligned - 1) / kAligned * kAligned;
    const std::shared_ptr<DeviceArray> results = index.results(scores_at + hits * sizeof(float), stream);
    asked.ids = static_cast<std::int64_t*>(results->data());
    asked.rounded = reinterpret_cast<float*>(static_cast<char*>(results->data()) + scores_at);
    {
        py::gil_scoped_release release;
        const auto copy = allowed ? index.allow(asked.allowed, stream) : nullptr;
        if (copy) asked.allowed = static_cast<const std::uint16_t*>(copy->data());
        index.search(asked, stream);
    }
    const std::vector<std::int64_t> shape{static_cast<std::int64_t>(rows.rows), static_cast<std::int64_t>(k)};
    return py::make_tuple(Exported{results, asked.rounded, shape, {dlpack::kFloat, 32, 1}},
                          Exported{results, asked.ids, shape, {dlpack::kInt, 64, 1}});
}

}  // namespace

void bind_cuda(py::module_& module) {
    module.attr("CUDA_MOST_WIDTH") = care::cuda::most_width();
    module.attr("CUDA_MOST_K") = care::cuda::most_k();
    module.def("cuda_devices", &care::cuda::devices, "Return how many GPUs there are.");
    py::class_<Exported>(module, "CudaArray", "An array on a GPU, for any library that takes DLPack.")
        .def_readonly("shape", &Exported::shape)
        .def("__dlpack_device__", &Exported::device)
        .def("__dlpack__", &Exported::capsule, py::arg("stream") = py::none());
    py::class_<DeviceIndex>(module, "CudaIndex", "An index in a GPU's memory; see csrc/include/care/cuda.hpp.")
        .def(py::init(&copy_index), py::arg("vectors").noconvert(), py::kw_only(), py::arg("bytes").noconvert(),
             py::arg("norms").noconvert(), py::arg("mean").noconvert(), py::arg("exponent"), py::arg("device"))
        .def_property_readonly("nbytes", &DeviceIndex::bytes)
        .def("search", &search, py::arg("queries").noconvert(), py::arg("k"),
             py::arg("allowed").noconvert() = py::none(), py::arg("findable"),
             "Return (scores, ids, rescored) as `_native.search` does.")
        .def("search_on_device", &search_on_device, py::arg("queries"), py::arg("k"),
             py::arg("allowed").noconvert() = py::none(), py::arg("findable"), py::arg("stream"),
             "Return (scores, ids) on the GPU, for queries that are there.");
}
