// SPDX-License-Identifier: Apache-2.0
// The array: reference-counted storage, a shape, strides in elements, a dtype. Views share storage.
#pragma once

#include <atomic>
#include <initializer_list>
#include <ostream>

#include "core/device.h"
#include "core/dtype.h"

namespace seqloom {

inline constexpr int kMaxRank = 8;

// A short list of extents, held in place.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> values) {
    for (int64_t v : values) push_back(v);
  }
  static Dims filled(int rank, int64_t value) {
    Dims d;
    for (int i = 0; i < rank; ++i) d.push_back(value);
    return d;
  }
  int size() const { return rank_; }
  bool empty() const { return rank_ == 0; }
  int64_t operator[](int i) const { return values_[i]; }
  int64_t& operator[](int i) { return values_[i]; }
  int64_t back() const { return values_[rank_ - 1]; }
  int64_t& back() { return values_[rank_ - 1]; }
  void push_back(int64_t value) { values_[rank_++] = value; }  // the caller keeps rank < kMaxRank
  void pop_back() { --rank_; }
  const int64_t* begin() const { return values_; }
  const int64_t* end() const { return values_ + rank_; }
  int64_t* begin() { return values_; }
  int64_t* end() { return values_ + rank_; }
  bool operator==(const Dims& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (values_[i] != o.values_[i]) return false;
    return true;
  }
  bool operator!=(const Dims& o) const { return !(*this == o); }
  int64_t product() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= values_[i];
    return n;
  }

 private:
  int32_t rank_ = 0;
  int64_t values_[kMaxRank];
};
std::ostream& operator<<(std::ostream& out, const Dims& dims);  // [2, 3]
Dims contiguous_strides(const Dims& shape);

// Memory with an owner. `release` runs once, when the last reference goes.
struct Storage {
  // Something derived from the contents that dies with them.
  struct Attachment {
    virtual ~Attachment() = default;
  };

  std::atomic<int64_t> references{0};
  std::atomic<uint64_t> version{0};  // bumped by every in-place change; autograd compares it
  void* data = nullptr;
  size_t bytes = 0;
  Device device;
  bool read_only = false;
  bool shared = false;  // others may write it without bumping the version
  Attachment* attachment = nullptr;
  void (*release)(Storage*) = nullptr;
  void* owner = nullptr;  // what `release` gives back: a Python object, a DLPack capsule, ...
};

class StoragePtr {
 public:
  StoragePtr() = default;
  explicit StoragePtr(Storage* s) : s_(s) { retain(); }
  StoragePtr(const StoragePtr& o) : s_(o.s_) { retain(); }
  StoragePtr(StoragePtr&& o) noexcept : s_(o.s_) { o.s_ = nullptr; }
  StoragePtr& operator=(StoragePtr o) noexcept {
    Storage* t = s_;
    s_ = o.s_;
    o.s_ = t;
    return *this;
  }
  ~StoragePtr() {
    if (s_ != nullptr && s_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      if (s_->attachment != nullptr) delete s_->attachment;
      s_->release(s_);
    }
  }
  Storage* operator->() const { return s_; }
  Storage* get() const { return s_; }

 private:
  void retain() {
    if (s_ != nullptr) s_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Storage* s_ = nullptr;
};

class Array {
 public:
  Array() = default;

  // Uninitialised, contiguous. MemoryError with the size when it can't be had.
  static Array empty(const Dims& shape, DType dtype, Device device = {});
  static Array empty_like(const Array& a) { return empty(a.shape(), a.dtype(), a.device()); }
  static Array empty_like(const Array& a, DType dtype) {
    return empty(a.shape(), dtype, a.device());
  }
  // Memory of somebody else's; `release(storage)` gives storage->owner back.
  static Array wrap(void* data, const Dims& shape, const Dims& strides, DType dtype, Device device,
                    bool read_only, void* owner, void (*release)(Storage*));

  bool defined() const { return storage_.get() != nullptr; }
  int rank() const { return shape_.size(); }
  const Dims& shape() const { return shape_; }
  const Dims& strides() const { return strides_; }  // in elements; may be 0 or negative
  int64_t size(int axis) const { return shape_[axis < 0 ? axis + rank() : axis]; }
  int64_t stride(int axis) const { return strides_[axis < 0 ? axis + rank() : axis]; }
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * item_size(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_->device; }
  bool is_cuda() const { return storage_->device.is_cuda(); }
  bool is_contiguous() const;
  bool read_only() const { return storage_->read_only; }
  bool is_view() const { return is_view_; }  // made by view(): others may see the same elements
  Array unviewed() const {                   // the same elements, as if nobody had cut them out
    Array a = *this;
    a.is_view_ = false;
    return a;
  }
  Storage* storage() const { return storage_.get(); }

  const void* data() const { return data_; }
  void* mutable_data() const { return data_; }  // for outputs and in-place ops that bumped version
  template <class T>
  const T* data_as() const {
    return static_cast<const T*>(static_cast<const void*>(data_));
  }
  template <class T>
  T* mutable_as() const {
    return static_cast<T*>(static_cast<void*>(data_));
  }

  // A view of the same storage; `offset` in elements from this view's first element.
  Array view(const Dims& shape, const Dims& strides, int64_t offset = 0) const;
  // The same elements of a contiguous array under another shape of equal size.
  Array reshaped(const Dims& shape) const { return view(shape, contiguous_strides(shape)); }

 private:
  StoragePtr storage_;
  char* data_ = nullptr;
  int64_t numel_ = 0;
  DType dtype_ = DType::kFloat32;
  bool is_view_ = false;
  Dims shape_, strides_;
};

// Product of the extents; ValueError when it or its bytes don't fit in 63 bits.
int64_t checked_numel(const Dims& shape, DType dtype);

}  // namespace seqloom
