# Everything that other people wrote: Debian packages by find_package, LibTorch and Arrow from pinned Python wheels.
#
# The wheels are used as C++ SDKs through imported targets. find_package(Torch) is avoided: it drags in CUDA
# detection. scripts/setup.sh makes .venv, a link to the virtual environment that holds the wheels.

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(fmt REQUIRED)
find_package(glog REQUIRED)
find_package(GTest REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_library(ROCKSDB_LIBRARY rocksdb REQUIRED)
find_library(XXHASH_LIBRARY xxhash REQUIRED)
find_library(ZMQ_LIBRARY zmq REQUIRED)
# Its CMake package asks for what the parts that we do not use stand on.
find_library(PROMETHEUS_LIBRARY prometheus-cpp-core REQUIRED)
find_package(OpenSSL REQUIRED)

# Debian builds cpp-httplib as a library, with these; they change its classes' layout.
find_library(HTTPLIB_LIBRARY cpp-httplib REQUIRED)
add_library(httplib INTERFACE)
target_compile_definitions(httplib INTERFACE CPPHTTPLIB_OPENSSL_SUPPORT CPPHTTPLIB_ZLIB_SUPPORT CPPHTTPLIB_BROTLI_SUPPORT)
target_link_libraries(httplib INTERFACE ${HTTPLIB_LIBRARY} OpenSSL::SSL)

# MPI by its C API only: FindMPI wants an enabled language, and links the C++ bindings (removed from the standard) with
# it.
find_package(MPI REQUIRED COMPONENTS CXX)
add_library(mpi_c INTERFACE)
target_include_directories(mpi_c SYSTEM INTERFACE ${MPI_CXX_INCLUDE_DIRS})
target_compile_definitions(mpi_c INTERFACE OMPI_SKIP_MPICXX)
target_link_libraries(mpi_c INTERFACE ${MPI_mpi_LIBRARY})

set(SAVIOR_VENV ${PROJECT_SOURCE_DIR}/.venv CACHE PATH "Virtual environment with the torch and pyarrow wheels")
set(SAVIOR_PYTHON ${SAVIOR_VENV}/bin/python)
if(NOT EXISTS ${SAVIOR_PYTHON})
  message(FATAL_ERROR "${SAVIOR_VENV} has no Python: run scripts/setup.sh first (it installs the torch and pyarrow wheels)")
endif()
function(find_wheel module result)
  execute_process(COMMAND ${SAVIOR_PYTHON} -c
    "import importlib.util as u; print(u.find_spec('${module}').submodule_search_locations[0])"
    OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(${result} ${folder} PARENT_SCOPE)
endfunction()

# Wheels ship only versioned names (libarrow.so.2300): takes the one that is there.
function(import_wheel_library target pattern)
  cmake_parse_arguments(ARG "" "" "INCLUDES;DEPS" ${ARGN})
  file(GLOB found ${pattern})
  if(NOT found)
    message(FATAL_ERROR "${pattern}: not found; delete the virtual environment and run scripts/setup.sh again")
  endif()
  list(SORT found ORDER DESCENDING)
  list(GET found 0 library)
  add_library(${target} SHARED IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION ${library})
  if(ARG_INCLUDES)
    target_include_directories(${target} SYSTEM INTERFACE ${ARG_INCLUDES})
  endif()
  target_link_libraries(${target} INTERFACE ${ARG_DEPS})
endfunction()

find_wheel(pyarrow PYARROW_DIR)
import_wheel_library(arrow_wheel ${PYARROW_DIR}/libarrow.so.* INCLUDES ${PYARROW_DIR}/include)
import_wheel_library(parquet_wheel ${PYARROW_DIR}/libparquet.so.* DEPS arrow_wheel)

# Torch's include directory also ships protobuf and fmt headers: searched after the system's, so that they shadow
# nothing.
find_wheel(torch TORCH_DIR)
import_wheel_library(c10_wheel ${TORCH_DIR}/lib/libc10.so)
target_compile_options(c10_wheel INTERFACE "SHELL:-idirafter ${TORCH_DIR}/include"
  "SHELL:-idirafter ${TORCH_DIR}/include/torch/csrc/api/include")
import_wheel_library(torch_wheel ${TORCH_DIR}/lib/libtorch_cpu.so DEPS c10_wheel)
# c10 and glog both define LOG and CHECK; with this c10 takes glog's.
target_compile_definitions(torch_wheel INTERFACE C10_USE_GLOG)
# libtorch_cpu.so needs the CUDA runtime and CUPTI of the nvidia wheels; it finds them by its own RPATH, the linker
# does not.
target_link_options(torch_wheel INTERFACE -Wl,--allow-shlib-undefined)

if(SAVIOR_CUDA)
  include(Cuda)
endif()
