# SPDX-License-Identifier: Apache-2.0
# The emulated CUDA build: .cu files under the host compiler, with CUDA's own headers for types and
# enums and csrc/emulation for everything else. Included by cmake/SeqloomCuda.cmake.

# CUDA's headers: those of nvcc, or of the pip packages nvidia-cuda-runtime and nvidia-cuda-crt.
function(seqloom_find_cuda_headers)
  set(hints "")
  find_program(SEQLOOM_NVCC nvcc)
  if(SEQLOOM_NVCC)
    get_filename_component(real ${SEQLOOM_NVCC} REALPATH)
    get_filename_component(bin ${real} DIRECTORY)
    list(APPEND hints ${bin}/../include ${bin}/../targets/x86_64-linux/include)
  endif()
  execute_process(COMMAND ${Python_EXECUTABLE} -c
    "import nvidia, os; print(os.path.join(list(nvidia.__path__)[0], 'cu13', 'include'))"
    OUTPUT_VARIABLE from_pip OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  list(APPEND hints ${from_pip} /usr/local/cuda/include)
  find_path(SEQLOOM_CUDA_INCLUDE cuda_runtime.h HINTS ${hints})
  if(NOT SEQLOOM_CUDA_INCLUDE)
    message(FATAL_ERROR "SEQLOOM_CUDA=EMULATED needs CUDA's headers: install nvcc, or "
      "pip install nvidia-cuda-runtime nvidia-cuda-crt")
  endif()
endfunction()

function(seqloom_add_emulated_cuda target)
  seqloom_find_cuda_headers()
  set(definitions SEQLOOM_WITH_CUDA=1 SEQLOOM_CUDA_EMULATED=1)
  if(SEQLOOM_EMULATION_CHECKED)
    list(APPEND definitions SEQLOOM_EMULATION_CHECKED=1)
  endif()
  file(GLOB runtime CONFIGURE_DEPENDS csrc/emulation/*.cpp)
  if(SEQLOOM_EMULATION_CHECKED)
    list(FILTER runtime EXCLUDE REGEX "no_callouts\\.cpp$")
  else()
    list(FILTER runtime EXCLUDE REGEX "/callouts\\.cpp$")
  endif()
  target_sources(${target} PRIVATE ${runtime})
  target_compile_definitions(${target} PRIVATE ${definitions})
  target_include_directories(${target} SYSTEM PRIVATE ${SEQLOOM_CUDA_INCLUDE})
  set_source_files_properties(${runtime} PROPERTIES COMPILE_OPTIONS "-Wno-psabi")

  # Kernels start from poisoned locals; checked ones report every access to the emulator.
  set(flags -x c++ -O2 -g1 -Wall -Wno-unknown-pragmas -ftrivial-auto-var-init=pattern
    -fno-semantic-interposition -ffp-contract=off)
  if(SEQLOOM_EMULATION_CHECKED)
    list(APPEND flags -fsanitize=thread,undefined -fno-sanitize=vptr
      -fno-sanitize-recover=undefined
      "SHELL:--param tsan-instrument-func-entry-exit=0"
      "SHELL:--param tsan-distinguish-volatile=1")
  endif()
  if(SEQLOOM_COVERAGE)
    list(APPEND flags --coverage)
    target_link_options(${target} PRIVATE --coverage)
  endif()
  add_library(seqloom_emulated_kernels OBJECT ${ARGN})
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX)
  target_include_directories(seqloom_emulated_kernels PRIVATE csrc)
  target_include_directories(seqloom_emulated_kernels SYSTEM PRIVATE ${SEQLOOM_CUDA_INCLUDE})
  target_compile_definitions(seqloom_emulated_kernels PRIVATE ${definitions}
    $<TARGET_PROPERTY:${target},SEQLOOM_ISA_DEFINITIONS>)
  target_compile_options(seqloom_emulated_kernels PRIVATE ${flags})
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:seqloom_emulated_kernels>)
endfunction()
