# SPDX-License-Identifier: Apache-2.0
# SEQLOOM_CUDA=EMULATED: compiles .cu files with the host compiler on top of csrc/emulation.
#
# NVIDIA's headers (types, half, bfloat16, declarations of the runtime API) are still needed, but
# no compiler, library or driver of theirs. They come from an installed toolkit, or from
#   pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl
set(SEQLOOM_EMULATION_DIR ${CMAKE_CURRENT_LIST_DIR})

function(seqloom_find_cuda_headers)
  set(hints $ENV{CUDA_HOME}/include $ENV{CUDA_PATH}/include)
  find_program(SEQLOOM_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
  if(SEQLOOM_NVCC)
    # nvcc may be a wrapper or a link: it says itself where its toolkit is.
    execute_process(COMMAND ${SEQLOOM_NVCC} --dryrun -c x.cu ERROR_VARIABLE dryrun
      OUTPUT_QUIET RESULT_VARIABLE ignored)
    if(dryrun MATCHES "TOP=([^\r\n]+)")
      get_filename_component(top ${CMAKE_MATCH_1} REALPATH)
      list(APPEND hints ${top}/include ${top}/targets/x86_64-linux/include
        ${top}/targets/sbsa-linux/include)
    endif()
  endif()
  execute_process(COMMAND ${Python_EXECUTABLE} -c
    "import nvidia, os; print(';'.join(os.path.join(p, 'cu13', 'include') for p in nvidia.__path__))"
    OUTPUT_VARIABLE from_pip OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE ignored)
  list(APPEND hints ${from_pip} /usr/local/cuda/include)
  find_path(SEQLOOM_CUDA_HEADERS cuda_runtime.h HINTS ${hints})
  if(NOT SEQLOOM_CUDA_HEADERS)
    message(FATAL_ERROR "SEQLOOM_CUDA=EMULATED needs NVIDIA's headers (cuda_runtime.h): install a "
      "CUDA toolkit, or: pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl")
  endif()
endfunction()

# Adds .cu files and the emulator to `target`.
function(seqloom_add_emulated_cuda target)
  seqloom_find_cuda_headers()
  set(includes ${SEQLOOM_CUDA_HEADERS} ${SEQLOOM_CUDA_HEADERS}/cccl)
  set(definitions SEQLOOM_WITH_CUDA=1 SEQLOOM_CUDA_EMULATED=1)
  if(SEQLOOM_EMULATION_CHECKED)
    list(APPEND definitions SEQLOOM_EMULATION_CHECKED=1)
  endif()

  # The emulator itself is never instrumented.
  file(GLOB emulator CONFIGURE_DEPENDS ${SEQLOOM_EMULATION_DIR}/*.cpp)
  if(SEQLOOM_EMULATION_CHECKED)
    list(FILTER emulator EXCLUDE REGEX "/no_callouts\\.cpp$")
  else()
    list(FILTER emulator EXCLUDE REGEX "/callouts\\.cpp$")
  endif()
  target_sources(${target} PRIVATE ${emulator})
  set_source_files_properties(${emulator} PROPERTIES COMPILE_OPTIONS "-g;-Wno-psabi")
  target_include_directories(${target} SYSTEM PRIVATE ${includes})
  target_compile_definitions(${target} PRIVATE ${definitions})

  if(ARGN)
    set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX)
    add_library(${target}_emulated OBJECT ${ARGN})
    target_include_directories(${target}_emulated PRIVATE ${SEQLOOM_EMULATION_DIR}/..)
    target_include_directories(${target}_emulated SYSTEM PRIVATE ${includes})
    target_compile_definitions(${target}_emulated PRIVATE ${definitions}
      $<TARGET_PROPERTY:${target},SEQLOOM_ISA_DEFINITIONS>)
    # Locals start as NaN, like all other memory. -g: reports name source lines.
    target_compile_options(${target}_emulated PRIVATE -x c++ -g -O2 -Wall -Wextra
      -Wno-unknown-pragmas -Wno-psabi -ffp-contract=off -fno-semantic-interposition
      -ftrivial-auto-var-init=pattern)
    if(SEQLOOM_EMULATION_CHECKED)
      # Call-outs before every access and undefined operation; callouts.cpp defines them, so no
      # sanitizer library is linked.
      target_compile_options(${target}_emulated PRIVATE -fsanitize=thread,undefined
        -fno-sanitize=vptr)
      if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        target_compile_options(${target}_emulated PRIVATE
          --param=tsan-instrument-func-entry-exit=0 --param=tsan-distinguish-volatile=1)
      endif()
    endif()
    if(SEQLOOM_COVERAGE)
      target_compile_options(${target}_emulated PRIVATE --coverage -fprofile-update=single)
      target_link_options(${target} PRIVATE --coverage)
    endif()
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_emulated>)
  endif()
endfunction()
