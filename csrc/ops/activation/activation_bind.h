// Activations as options of other ops' bindings.
#pragma once

#include "core/arguments.h"
#include "ops/activation/activation.h"

namespace lamella {

// None or a name of activation.h, with Keras' default parameters (elu alpha 1, leaky_relu 0.2).
activation::Activation activation_option(const char* op, py::handle object);

}  // namespace lamella
