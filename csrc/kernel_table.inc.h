/* SPDX-License-Identifier: MIT */
/* The table fl_kernels_<isa> of what instantiate.inc.h has made, for both types.
 * A new kernel: a member in fastlstm.h and a line here. */
#include "fastlstm.h"

#define FL_STRING_(text) #text
#define FL_STRING(text)  FL_STRING_(text)
#define FL_BOTH(name)    {FL_NAME(name, f32), FL_NAME(name, f64)}

extern const fl_kernels FL_CAT2(fl_kernels, ISA);

const fl_kernels FL_CAT2(fl_kernels, ISA) = {
    .isa = FL_STRING(ISA),
    .lanes = FL_BOTH(lanes),
    .tile_rows = TILE_ROWS,
    .sigmoid = FL_BOTH(sigmoid),
    .tanh = FL_BOTH(tanh),
    .pack_panels = FL_BOTH(pack_panels),
    .pack_columns = FL_BOTH(pack_columns),
    .pack_bias = FL_BOTH(pack_bias),
    .pack_projection = FL_BOTH(pack_projection),
    .pack_projection_columns = FL_BOTH(pack_projection_columns),
    .pack_peepholes = FL_BOTH(pack_peepholes),
    .project = FL_BOTH(project),
    .step_forward = FL_BOTH(step_forward),
    .step_backward = FL_BOTH(step_backward),
    .input_gradient = FL_BOTH(input_gradient),
    .weight_gradient = FL_BOTH(weight_gradient),
    .peephole_gradient = FL_BOTH(peephole_gradient),
    .gradient_scratch = FL_BOTH(gradient_scratch),
};
