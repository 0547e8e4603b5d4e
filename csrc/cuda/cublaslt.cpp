// SPDX-License-Identifier: Apache-2.0
// cuBLASLt works in column-major order: a row-major c = a b is computed as c^T = b^T a^T, where the
// transposes are only a way of reading the same memory.
#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <tuple>
#include <vector>

#include "cuda/cublaslt_api.h"
#include "cuda/error.h"
#if defined(SEQLOOM_CUDA_EMULATED)
#include "emulation/control.h"
#include "emulation/host_gemm.h"
#endif

namespace seqloom::cuda {
namespace {

#if !defined(SEQLOOM_CUDA_EMULATED)
constexpr std::size_t kWorkspaceLimit = 32 << 20;

struct Library {
  std::once_flag searched;
  std::mutex lock;  // guards what follows `loaded`
  CublasLtHooks hooks;
  std::string status;
  bool loaded = false;
  lt::Functions f{};
  std::map<int, lt::Handle> handles;  // by device
  // Everything that the choice of an algorithm depends on -> that choice.
  using Key = std::tuple<int, int, int, std::int64_t, std::int64_t, std::int64_t, int, int,
                         std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                         std::int64_t, std::int64_t, int>;
  std::map<Key, std::unique_ptr<lt::Heuristic>> choices;  // null: no algorithm
};
Library& library() {
  static Library* l = new Library;  // outlives everything, like the opened file
  return *l;
}

template <class F>
bool find(void* file, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(file, name));
  return function != nullptr;
}

bool bind(void* file, lt::Functions& f) {
  return find(file, "cublasLtCreate", f.Create) &&
         find(file, "cublasLtMatmulDescCreate", f.MatmulDescCreate) &&
         find(file, "cublasLtMatmulDescDestroy", f.MatmulDescDestroy) &&
         find(file, "cublasLtMatmulDescSetAttribute", f.MatmulDescSetAttribute) &&
         find(file, "cublasLtMatrixLayoutCreate", f.MatrixLayoutCreate) &&
         find(file, "cublasLtMatrixLayoutDestroy", f.MatrixLayoutDestroy) &&
         find(file, "cublasLtMatrixLayoutSetAttribute", f.MatrixLayoutSetAttribute) &&
         find(file, "cublasLtMatmulPreferenceCreate", f.MatmulPreferenceCreate) &&
         find(file, "cublasLtMatmulPreferenceDestroy", f.MatmulPreferenceDestroy) &&
         find(file, "cublasLtMatmulPreferenceSetAttribute", f.MatmulPreferenceSetAttribute) &&
         find(file, "cublasLtMatmulAlgoGetHeuristic", f.MatmulAlgoGetHeuristic) &&
         find(file, "cublasLtMatmul", f.Matmul);
}

void search(Library& l) {
  std::vector<std::string> candidates;
  std::istringstream found(l.hooks.find ? l.hooks.find() : std::string());
  for (std::string line; std::getline(found, line);)
    if (!line.empty()) candidates.push_back(line);
  for (const char* name : {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13",
                           "/usr/local/cuda-13/lib64/libcublasLt.so.13", "libcublasLt.so.12"})
    candidates.emplace_back(name);
  std::string failures;
  for (const std::string& candidate : candidates) {
    void* file = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays open for good
    if (file && bind(file, l.f)) {
      l.status = candidate;
      l.loaded = true;
      return;
    }
    const char* why = file ? nullptr : dlerror();
    failures += (failures.empty() ? "" : "; ") +
                (why ? std::string(why) : candidate + ": a function is missing");
  }
  l.status = "cuBLASLt was not found: " + failures;
  if (l.hooks.warn) l.hooks.warn(l.status);
}

bool load(Library& l) {
  std::call_once(l.searched, [&l] { search(l); });
  return l.loaded;
}

void require(lt::Status status, const char* what) {
  if (status != 0)
    throw CudaError(
        status, std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(status));
}

int type_of(DType t) {
  return t == DType::kFloat32 ? lt::kFloat32 : t == DType::kFloat16 ? lt::kFloat16 : lt::kBFloat16;
}

std::uint32_t alignment_of(const void* p) {
  const auto a = reinterpret_cast<std::uintptr_t>(p) | 256;
  return static_cast<std::uint32_t>(a & (~a + 1));
}

// The descriptors of one product, released together.
class Descriptors {
 public:
  Descriptors(const lt::Functions& f, const GemmArgs& g) : f_(f) {
    const int compute =
        g.dtype == DType::kFloat32 && g.allow_tf32 ? lt::kCompute32FFastTf32 : lt::kCompute32F;
    require(f.MatmulDescCreate(&desc, compute, lt::kFloat32), "cublasLtMatmulDescCreate");
    const std::int32_t op_b = g.transpose_b ? lt::kTranspose : lt::kNone;
    const std::int32_t op_a = g.transpose_a ? lt::kTranspose : lt::kNone;
    set(lt::kTransA, op_b);  // the library's first operand is our second
    set(lt::kTransB, op_a);
    if (g.bias) {
      set(lt::kEpilogue, static_cast<std::uint32_t>(lt::kEpilogueBias));
      set(lt::kBiasPointer, g.bias);
      set(lt::kBiasDataType, static_cast<std::int32_t>(type_of(g.dtype)));
    }
    layout(first, type_of(g.dtype), g.transpose_b ? g.k : g.n, g.transpose_b ? g.n : g.k,
           g.row_b ? g.row_b : (g.transpose_b ? g.k : g.n), g.batch, g.stride_b);
    layout(second, type_of(g.dtype), g.transpose_a ? g.m : g.k, g.transpose_a ? g.k : g.m,
           g.row_a ? g.row_a : (g.transpose_a ? g.m : g.k), g.batch, g.stride_a);
    layout(out, type_of(g.out_dtype), g.n, g.m, g.row_c ? g.row_c : g.n, g.batch, g.stride_c);
  }
  ~Descriptors() {
    for (lt::Layout l : {first, second, out})
      if (l) f_.MatrixLayoutDestroy(l);
    if (desc) f_.MatmulDescDestroy(desc);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  lt::MatmulDesc desc = nullptr;
  lt::Layout first = nullptr, second = nullptr, out = nullptr;

 private:
  template <class T>
  void set(int attribute, const T& value) {
    require(f_.MatmulDescSetAttribute(desc, attribute, &value, sizeof value),
            "cublasLtMatmulDescSetAttribute");
  }
  void layout(lt::Layout& l, int type, std::int64_t rows, std::int64_t columns,
              std::int64_t leading, std::int64_t batch, std::int64_t stride) {
    require(f_.MatrixLayoutCreate(&l, type, static_cast<std::uint64_t>(rows),
                                  static_cast<std::uint64_t>(columns), leading),
            "cublasLtMatrixLayoutCreate");
    if (batch == 1) return;
    const auto count = static_cast<std::int32_t>(batch);
    require(f_.MatrixLayoutSetAttribute(l, lt::kBatchCount, &count, sizeof count),
            "cublasLtMatrixLayoutSetAttribute");
    require(f_.MatrixLayoutSetAttribute(l, lt::kBatchStride, &stride, sizeof stride),
            "cublasLtMatrixLayoutSetAttribute");
  }
  const lt::Functions& f_;
};

std::unique_ptr<lt::Heuristic> choose(const lt::Functions& f, lt::Handle handle,
                                      const Descriptors& d, const GemmArgs& g) {
  lt::Preference preference = nullptr;
  require(f.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const std::size_t limit = kWorkspaceLimit;
  const std::uint32_t align_a = alignment_of(g.b), align_b = alignment_of(g.a),
                      align_c = alignment_of(g.c);
  f.MatmulPreferenceSetAttribute(preference, lt::kMaxWorkspace, &limit, sizeof limit);
  f.MatmulPreferenceSetAttribute(preference, lt::kMinAlignmentA, &align_a, 4);
  f.MatmulPreferenceSetAttribute(preference, lt::kMinAlignmentB, &align_b, 4);
  f.MatmulPreferenceSetAttribute(preference, lt::kMinAlignmentC, &align_c, 4);
  f.MatmulPreferenceSetAttribute(preference, lt::kMinAlignmentD, &align_c, 4);
  auto result = std::make_unique<lt::Heuristic>();
  int found = 0;
  const lt::Status status = f.MatmulAlgoGetHeuristic(handle, d.desc, d.first, d.second, d.out,
                                                     d.out, preference, 1, result.get(), &found);
  f.MatmulPreferenceDestroy(preference);
  if (status != 0 || found == 0 || result->state != 0) return nullptr;
  return result;
}
#endif

}  // namespace

#if defined(SEQLOOM_CUDA_EMULATED)

void set_cublaslt_hooks(const CublasLtHooks&) {}
std::string cublaslt_status() { return "emulated: a plain host product"; }
bool cublaslt_is_loaded() { return emulation::settings().library; }
bool gemm(const GemmArgs& g, StreamHandle stream) {
  if (!cublaslt_is_loaded()) return false;
  if (g.m == 0 || g.n == 0 || g.batch == 0) return true;
  if (g.bias && g.out_dtype != g.dtype) return false;
  check(emulation::host_gemm(g, stream), "matrix product");
  return true;
}

#else

void set_cublaslt_hooks(const CublasLtHooks& hooks) { library().hooks = hooks; }
std::string cublaslt_status() {
  load(library());
  return library().status;
}
bool cublaslt_is_loaded() { return load(library()); }

bool gemm(const GemmArgs& g, StreamHandle stream) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return true;
  if (g.bias && g.out_dtype != g.dtype) return false;
  Library& l = library();
  if (!load(l)) return false;
  lt::Heuristic choice;
  lt::Handle handle;
  std::unique_ptr<Descriptors> d;
  {
    std::lock_guard<std::mutex> hold(l.lock);
    const int device = current_device();
    lt::Handle& h = l.handles[device];
    if (!h) require(l.f.Create(&h), "cublasLtCreate");
    handle = h;
    d = std::make_unique<Descriptors>(l.f, g);
    const int flags =
        g.transpose_a | g.transpose_b << 1 | (g.bias != nullptr) << 2 | g.allow_tf32 << 3;
    const int alignment =
        static_cast<int>(alignment_of(g.a) | alignment_of(g.b) << 10 | alignment_of(g.c) << 20);
    const Library::Key key{device,
                           static_cast<int>(g.dtype),
                           static_cast<int>(g.out_dtype),
                           g.m,
                           g.n,
                           g.k,
                           flags,
                           alignment,
                           g.row_a,
                           g.row_b,
                           g.row_c,
                           g.batch,
                           g.stride_a,
                           g.stride_b,
                           g.stride_c,
                           0};
    auto [found, fresh] = l.choices.try_emplace(key);
    if (fresh) found->second = choose(l.f, handle, *d, g);
    if (!found->second) return false;
    choice = *found->second;
  }
  void* workspace = allocate(choice.workspace_bytes, stream);
  const lt::Status status =
      l.f.Matmul(handle, d->desc, &g.alpha, g.b, d->first, g.a, d->second, &g.beta, g.c, d->out,
                 g.c, d->out, &choice.algorithm, workspace, choice.workspace_bytes, stream);
  release(workspace, stream);
  require(status, "cublasLtMatmul");
  return true;
}

#endif

}  // namespace seqloom::cuda
