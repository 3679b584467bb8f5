# The CUDA build: the runtime's headers and library, NCCL, and the CUDA half of the torch wheel. No nvcc and no GPU:
# we have no kernels of our own.
#
# Looked for in the virtual environment (scripts/setup.sh --gpu), in .cuda (scripts/setup.sh --cuda-build), and in a
# CUDA toolkit of the system.
set(SAVIOR_CUDA_WHEELS ${PROJECT_SOURCE_DIR}/.cuda CACHE PATH "Folder with the wheels of scripts/requirements-cuda.txt")
get_filename_component(site_packages ${TORCH_DIR} DIRECTORY)
set(nvidia_folders ${site_packages}/nvidia ${SAVIOR_CUDA_WHEELS}/nvidia)
find_package(CUDAToolkit 13.0 QUIET)

function(find_nvidia_header result name)
  list(TRANSFORM nvidia_folders APPEND /cu13/include OUTPUT_VARIABLE cuda)
  list(TRANSFORM nvidia_folders APPEND /nccl/include OUTPUT_VARIABLE nccl)
  find_path(${result} ${name} HINTS ${cuda} ${nccl} ${CUDAToolkit_INCLUDE_DIRS})
  if(NOT ${result})
    message(FATAL_ERROR "SAVIOR_CUDA=ON, and ${name} is nowhere: run scripts/setup.sh --cuda-build")
  endif()
endfunction()
find_nvidia_header(CUDA_RUNTIME_HEADER cuda_runtime_api.h)
find_nvidia_header(CUDA_CRT_HEADER crt/host_defines.h)
find_nvidia_header(NCCL_HEADER nccl.h)

file(GLOB cudart ${site_packages}/nvidia/cu13/lib/libcudart.so.13 ${CUDAToolkit_LIBRARY_DIR}/libcudart.so.13)
list(GET cudart 0 cudart)
import_wheel_library(cudart_wheel ${cudart} INCLUDES ${CUDA_RUNTIME_HEADER} ${CUDA_CRT_HEADER})

find_library(NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS ${site_packages}/nvidia/nccl/lib
             ${SAVIOR_CUDA_WHEELS}/nvidia/nccl/lib REQUIRED)
import_wheel_library(nccl_wheel ${NCCL_LIBRARY} INCLUDES ${NCCL_HEADER} DEPS cudart_wheel)

import_wheel_library(c10_cuda_wheel ${TORCH_DIR}/lib/libc10_cuda.so DEPS c10_wheel cudart_wheel)
import_wheel_library(torch_cuda_wheel ${TORCH_DIR}/lib/libtorch_cuda.so DEPS torch_wheel c10_cuda_wheel)
# It registers its kernels when it is loaded; no symbol of it is asked for by name.
target_link_options(torch_cuda_wheel INTERFACE -Wl,--no-as-needed)
