# Compiler flags of csrc/, for gcc and clang. Read by the Makefile and by setup.py: `NAME := flags`, one per line.
# No -ffast-math and no -march=native; -ffp-contract=off because FMA is written out with intrinsics.
CSRC_FLAGS := -std=c11 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off -fvisibility=hidden -fPIC -pthread -Wall -Wextra
ISAS_x86_64 := avx512 avx2
ISAS_aarch64 := neon
ISA_FLAGS_avx512 := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mavx2
ISA_FLAGS_avx2 := -mavx2 -mfma
ISA_FLAGS_neon :=
