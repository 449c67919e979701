# The inner loops are compiled once per instruction set and chosen at run time. Their sources use
# raw pointers and no header with inline functions, so that no AVX-512 copy of a shared inline
# function can end up in code that runs on an older processor.
set(EDUFAST_CPU_ISAS baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  list(APPEND EDUFAST_CPU_ISAS x86-64-v3 x86-64-v4)
endif()

# Further arguments: compile options of this source.
function(edufast_add_cpu_loops target source)
  get_filename_component(name ${source} NAME_WE)
  foreach(isa IN LISTS EDUFAST_CPU_ISAS)
    string(MAKE_C_IDENTIFIER ${isa} namespace)
    set(object ${name}_${namespace})
    add_library(${object} OBJECT ${source})
    target_include_directories(${object} PRIVATE csrc)
    target_compile_definitions(${object} PRIVATE EDUFAST_ISA=${namespace})
    # No -ffast-math: sums have explicit lanes, and masked logits (-inf) and NaN are part of the
    # contract.
    target_compile_options(${object} PRIVATE -O3 -Wall -Wextra -fno-math-errno -fno-trapping-math
      -ffp-contract=fast ${ARGN})
    if(NOT isa STREQUAL "baseline")
      target_compile_options(${object} PRIVATE -march=${isa} -mprefer-vector-width=512)
    endif()
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
  endforeach()
endfunction()

if(EDUFAST_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${EDUFAST_SANITIZE}>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>)
  add_link_options(-fsanitize=${EDUFAST_SANITIZE})
endif()
