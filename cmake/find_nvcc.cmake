# Sets LAMELLA_NVCC, empty where there is no compiler to use, and LAMELLA_CUDART, the static runtime.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import importlib.util as u; s = u.find_spec('nvidia'); print(*(s.submodule_search_locations if s else []), sep=';')"
  OUTPUT_VARIABLE nvidia_packages ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
set(roots "")
foreach(folder IN LISTS nvidia_packages)
  list(APPEND roots ${folder}/cu13)
endforeach()
find_program(nvcc_program nvcc HINTS ${roots} $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda-13.0
             PATH_SUFFIXES bin NO_CACHE)
set(why "")
if(NOT nvcc_program)
  set(why "no nvcc")
else()
  execute_process(COMMAND ${nvcc_program} --version OUTPUT_VARIABLE version)
  if(NOT version MATCHES "release 13\\.0")
    string(REGEX MATCH "release [0-9.]+" version "${version}")
    set(why "${nvcc_program} is of ${version}")
  else()
    # Where its libraries are, nvcc itself knows best, also behind a link or a script.
    execute_process(COMMAND ${nvcc_program} -dryrun -c -x cu /dev/null -o /dev/null
                    ERROR_VARIABLE dryrun OUTPUT_QUIET)
    string(REGEX MATCH "TOP=([^\n]+)" top "${dryrun}")
    file(REAL_PATH "${CMAKE_MATCH_1}" top)
    find_library(LAMELLA_CUDART NAMES libcudart_static.a HINTS ${top}
                 PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib NO_CACHE
                 NO_DEFAULT_PATH)
    if(NOT LAMELLA_CUDART)
      set(why "no libcudart_static.a beside ${nvcc_program}")
    endif()
  endif()
endif()
if(why STREQUAL "")
  set(LAMELLA_NVCC ${nvcc_program})
elseif(LAMELLA_CUDA STREQUAL "ON")
  message(FATAL_ERROR "LAMELLA_CUDA=ON needs CUDA 13.0's compiler and static runtime: ${why}")
else()
  message(STATUS "Building for the CPU only, without CUDA kernels: ${why}; they need CUDA 13.0")
endif()
