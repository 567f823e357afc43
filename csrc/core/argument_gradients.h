// The gradients that a backward pass gives for an op's array arguments: in arrays of the caller's
// where it gave some, else in new ones.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/arguments.h"
#include "core/overlap.h"

namespace lamella {

class ArgumentGradients {
 public:
  struct Argument {
    const char* name;
    const FloatInput* array;  // null: has no gradient
  };

  ArgumentGradients(const char* op, std::vector<Argument> arguments, const py::tuple& needs,
                    const py::tuple& out)
      : op_(op), arguments_(std::move(arguments)), outputs_(arguments_.size()) {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const FloatInput* const input = arguments_[i].array;
      outputs_[i].array = py::none();
      if (input == nullptr || !*input || !needs[i].cast<bool>()) continue;
      outputs_[i] = output_array(op, name(i).c_str(), out[i],
                                 Shape(input->shape, input->shape + input->ndim));
    }
  }

  // Null where it is not wanted.
  float* data(std::size_t i) const { return outputs_[i].data; }

  // Zeros everywhere.
  void clear() const {
    for (const Output& output : outputs_) {
      if (output.data == nullptr) continue;
      std::memset(output.data, 0, static_cast<std::size_t>(output.size) * sizeof(float));
    }
  }

  // ValueError where a gradient overlaps an argument, one of `others` (results' gradients,
  // options), or another gradient: they are read while the gradients are written.
  void expect_separate_from(const std::vector<const FloatInput*>& others) const {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      if (outputs_[i].data == nullptr) continue;
      for (const Argument& argument : arguments_) {
        if (argument.array != nullptr) check(i, argument.name, *argument.array);
      }
      for (const FloatInput* other : others) check(i, "dy or an option", *other);
      for (std::size_t k = 0; k < i; ++k) {
        expect_separate(op_, name(i).c_str(), outputs_[i].data, outputs_[i].size, name(k).c_str(),
                        outputs_[k].data, outputs_[k].size);
      }
    }
  }

  py::tuple arrays() const {
    py::tuple result(outputs_.size());
    for (std::size_t i = 0; i < outputs_.size(); ++i) result[i] = outputs_[i].array;
    return result;
  }

 private:
  static std::string name(std::size_t i) { return "out[" + std::to_string(i) + "]"; }
  void check(std::size_t i, const char* other_name, const FloatInput& other) const {
    expect_separate(op_, name(i).c_str(), outputs_[i].data, outputs_[i].size, other_name,
                    other.data(), other.size);
  }

  const char* op_;
  std::vector<Argument> arguments_;
  std::vector<Output> outputs_;
};

}  // namespace lamella
