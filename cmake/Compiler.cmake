# Compiler settings that all of our targets share, and none of those of other people.

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

# ccache: base_dir and no hash_dir, so that a second clone of the same sources hits; the sloppiness is what
# ccache's manual asks for with precompiled headers.
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE})
endif()

# PRIVATE to each of our targets: warnings never reach third-party headers (those are SYSTEM).
add_library(savior_options INTERFACE)
target_compile_options(savior_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
  -Wold-style-cast -Woverloaded-virtual -Wno-unused-parameter -Werror=unused-result -Werror=return-type)
target_include_directories(savior_options INTERFACE ${PROJECT_SOURCE_DIR})

if(NOT SAVIOR_FAILPOINTS)
  add_compile_definitions(SAVIOR_NO_FAILPOINTS=1)
endif()

if(SAVIOR_SANITIZE)
  # Global, since every object of a sanitized program must be compiled alike.
  add_compile_options(-fsanitize=${SAVIOR_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SAVIOR_SANITIZE})
  add_compile_definitions(SAVIOR_SANITIZED=1)
endif()

# savior_library(NAME sources... DEPS targets...): a static library with our options.
function(savior_library name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE savior_options)
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
endfunction()

# savior_test(NAME sources... DEPS targets... LABELS labels... TIMEOUT seconds): one GoogleTest program, one CTest
# entry. Label `unit` unless told.
function(savior_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "DEPS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main savior_options)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    ENVIRONMENT "OMP_NUM_THREADS=1;TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp:history_size=7")
endfunction()

# savior_mpi_test(NAME sources... DEPS targets... RANKS counts... LABELS labels... TIMEOUT seconds): one GoogleTest
# program with a main that joins the MPI job (tests/worker/mpi/main.cc), run by mpirun with each number of ranks: CTest
# entries NAME_1, NAME_2, ...
function(savior_mpi_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "DEPS;LABELS;RANKS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS dist)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS} ${PROJECT_SOURCE_DIR}/tests/worker/mpi/main.cc)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} savior_mpi GTest::gmock savior_options)
  foreach(ranks ${ARG_RANKS})
    add_test(NAME ${name}_${ranks}
      COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} --mca btl self,vader,tcp --mca pml ob1 --tag-output
              $<TARGET_FILE:${name}>)
    # More ranks than cores: they take turns. As root, too, which containers are.
    set_tests_properties(${name}_${ranks} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} PROCESSORS 2
      ENVIRONMENT "OMP_NUM_THREADS=1;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1;OMPI_MCA_hwloc_base_binding_policy=none;OMPI_MCA_mpi_yield_when_idle=1")
  endforeach()
endfunction()

# savior_gpu_tests(NAME): of savior_test NAME, the tests in suites called *Gpu become a CTest entry of their own,
# NAME.gpu with label gpu; without a GPU they say why they skip, and CTest counts them as skipped.
function(savior_gpu_tests name)
  set_tests_properties(${name} PROPERTIES ENVIRONMENT_MODIFICATION "GTEST_FILTER=set:-*Gpu.*")
  add_test(NAME ${name}.gpu COMMAND ${name} --gtest_filter=*Gpu.*)
  set_tests_properties(${name}.gpu PROPERTIES LABELS gpu TIMEOUT 300
    SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
endfunction()
