// SPDX-License-Identifier: Apache-2.0
#include "core/array.h"

#include <new>

#include "core/allocator.h"
#include "core/error.h"

namespace seqloom {
namespace {

void release_owned(Storage* s) {
  if (s->device.is_cuda())
    cuda_backend().release(s->device, s->data, s->bytes);
  else
    cpu_free(s->data, s->bytes);
  delete s;
}

void* allocate_on(Device device, size_t bytes) {
  void* data = nullptr;
  int64_t in_use = 0;
  if (device.is_cuda()) {
    const DeviceBackend& backend = cuda_backend();
    data = backend.allocate(device, bytes > 0 ? bytes : 1);
    if (data == nullptr) in_use = backend.bytes_in_use(device);
  } else {
    data = cpu_allocate(bytes);
    if (data == nullptr) in_use = static_cast<int64_t>(cpu_memory_stats().in_use);
  }
  if (data == nullptr)
    throw MemoryError(str("out of memory: asked for ", bytes, " bytes on ", device, ", ", in_use,
                          " bytes are in use"));
  return data;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Dims& dims) {
  out << '[';
  for (int i = 0; i < dims.size(); ++i) out << (i ? ", " : "") << dims[i];
  return out << ']';
}

Dims contiguous_strides(const Dims& shape) {
  Dims strides = Dims::filled(shape.size(), 1);
  for (int i = shape.size() - 2; i >= 0; --i)
    strides[i] = strides[i + 1] * (shape[i + 1] > 1 ? shape[i + 1] : 1);
  return strides;
}

int64_t checked_numel(const Dims& shape, DType dtype) {
  int64_t n = 1, bytes = 0;
  bool zero = false, overflow = false;
  for (int64_t extent : shape) {
    check_value(extent >= 0, "shape: extents must not be negative, got ", shape);
    if (extent == 0)
      zero = true;
    else
      overflow |= __builtin_mul_overflow(n, extent, &n);
  }
  if (zero) return 0;
  overflow |= __builtin_mul_overflow(n, item_size(dtype), &bytes);
  check_value(!overflow, "shape: ", shape, " of ", name_of(dtype), " does not fit in memory");
  return n;
}

Array Array::empty(const Dims& shape, DType dtype, Device device) {
  Array a;
  a.numel_ = checked_numel(shape, dtype);
  a.shape_ = shape;
  a.strides_ = contiguous_strides(shape);
  a.dtype_ = dtype;
  const size_t bytes = static_cast<size_t>(a.numel_ * item_size(dtype));
  void* data = allocate_on(device, bytes);
  Storage* s = new Storage;
  s->data = data;
  s->bytes = bytes;
  s->device = device;
  s->release = release_owned;
  a.storage_ = StoragePtr(s);
  a.data_ = static_cast<char*>(data);
  return a;
}

Array Array::wrap(void* data, const Dims& shape, const Dims& strides, DType dtype, Device device,
                  bool read_only, void* owner, void (*release)(Storage*)) {
  Storage* s = new Storage;
  s->data = data;
  s->device = device;
  s->read_only = read_only;
  s->shared = true;
  s->owner = owner;
  s->release = release;
  Array a;
  a.storage_ = StoragePtr(s);
  a.data_ = static_cast<char*>(data);
  a.shape_ = shape;
  a.strides_ = strides;
  a.dtype_ = dtype;
  a.numel_ = checked_numel(shape, dtype);
  s->bytes = static_cast<size_t>(a.numel_ * item_size(dtype));
  return a;
}

bool Array::is_contiguous() const {
  if (numel_ == 0) return true;
  int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

Array Array::view(const Dims& shape, const Dims& strides, int64_t offset) const {
  Array a = *this;
  a.is_view_ = true;
  a.shape_ = shape;
  a.strides_ = strides;
  a.numel_ = shape.product();
  a.data_ = data_ + offset * item_size(dtype_);
  return a;
}

}  // namespace seqloom
