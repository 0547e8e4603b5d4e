# SPDX-License-Identifier: Apache-2.0
# SEQLOOM_CUDA decides what the device "cuda" is:
#   OFF       there is none
#   ON        nvcc, for the release list of architectures or CMAKE_CUDA_ARCHITECTURES
#   AUTO      ON for this machine's GPU alone when nvcc and a GPU are both here, else OFF
#   EMULATED  the same .cu files under the host compiler, on csrc/emulation
set(SEQLOOM_RELEASE_ARCHITECTURES
  75-real 80-real 86-real 89-real 90-real 100-real 120-real 120-virtual)

function(seqloom_find_nvcc)
  if(SEQLOOM_CUDA_FROM_PYPI)
    execute_process(COMMAND ${Python_EXECUTABLE} -c
      "import nvidia, os; print(os.path.join(list(nvidia.__path__)[0], 'cu13'))"
      OUTPUT_VARIABLE cu13 OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    set(CMAKE_CUDA_COMPILER ${cu13}/bin/nvcc CACHE FILEPATH "" FORCE)
    # These wheels have lib/ where nvcc expects lib64/.
    set(ENV{LIBRARY_PATH} "${cu13}/lib:$ENV{LIBRARY_PATH}")
    set(CMAKE_CUDA_FLAGS_INIT "-L${cu13}/lib" PARENT_SCOPE)
  endif()
endfunction()

# The compute capability of this machine's GPU, e.g. 90, or empty.
function(seqloom_native_architecture out)
  set(${out} "" PARENT_SCOPE)
  find_program(SEQLOOM_NVIDIA_SMI nvidia-smi)
  if(SEQLOOM_NVIDIA_SMI)
    execute_process(COMMAND ${SEQLOOM_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE found RESULT_VARIABLE failed ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT failed AND found MATCHES "^([0-9]+)\\.([0-9]+)")
      set(${out} "${CMAKE_MATCH_1}${CMAKE_MATCH_2}" PARENT_SCOPE)
    endif()
  endif()
endfunction()

macro(seqloom_add_cuda target)
  set(seqloom_cuda_mode ${SEQLOOM_CUDA})
  if(NOT seqloom_cuda_mode MATCHES "^(AUTO|ON|OFF|EMULATED)$")
    message(FATAL_ERROR "SEQLOOM_CUDA must be AUTO, ON, OFF or EMULATED, got ${SEQLOOM_CUDA}")
  endif()
  seqloom_find_nvcc()
  if(seqloom_cuda_mode STREQUAL "AUTO")
    include(CheckLanguage)
    check_language(CUDA)
    seqloom_native_architecture(seqloom_native)
    if(CMAKE_CUDA_COMPILER AND seqloom_native)
      set(seqloom_cuda_mode ON)
      if(NOT CMAKE_CUDA_ARCHITECTURES)
        set(CMAKE_CUDA_ARCHITECTURES ${seqloom_native}-real)
      endif()
    else()
      set(seqloom_cuda_mode OFF)
    endif()
  endif()
  message(STATUS "seqloom: CUDA ${seqloom_cuda_mode} (asked for ${SEQLOOM_CUDA})")

  if(seqloom_cuda_mode STREQUAL "OFF")
    target_sources(${target} PRIVATE csrc/cuda/unavailable.cpp)
  else()
    file(GLOB seqloom_cuda_host CONFIGURE_DEPENDS csrc/cuda/*.cpp)
    list(FILTER seqloom_cuda_host EXCLUDE REGEX "unavailable\\.cpp$")
    target_sources(${target} PRIVATE ${seqloom_cuda_host})
    target_compile_definitions(${target} PRIVATE SEQLOOM_WITH_CUDA=1)
  endif()

  if(seqloom_cuda_mode STREQUAL "EMULATED")
    include(csrc/emulation/emulation.cmake)
    seqloom_add_emulated_cuda(${target} ${ARGN})
  elseif(seqloom_cuda_mode STREQUAL "ON")
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES ${SEQLOOM_RELEASE_ARCHITECTURES})
    endif()
    enable_language(CUDA)
    find_path(SEQLOOM_CUDA_INCLUDE cuda_runtime.h
      HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} REQUIRED)
    add_library(seqloom_cuda OBJECT ${ARGN})
    target_include_directories(seqloom_cuda PRIVATE csrc)
    target_compile_definitions(seqloom_cuda PRIVATE SEQLOOM_WITH_CUDA=1)
    set_target_properties(seqloom_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
      CUDA_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
    target_compile_options(seqloom_cuda PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size --expt-relaxed-constexpr -Xcompiler=-Wall>)
    target_compile_definitions(seqloom_cuda PRIVATE
      $<TARGET_PROPERTY:${target},SEQLOOM_ISA_DEFINITIONS>)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:seqloom_cuda>)
    target_include_directories(${target} SYSTEM PRIVATE ${SEQLOOM_CUDA_INCLUDE})
    set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
    set_target_properties(seqloom_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  endif()
endmacro()
