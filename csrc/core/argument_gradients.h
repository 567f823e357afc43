// Where the gradients of an op's array arguments go: new arrays, or the caller's `out`; none where
// `needs` says so or the argument is absent. For bindings that take both as tuples.
#pragma once

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

  // Without places yet.
  ArgumentGradients(const char* op, std::size_t count, const py::tuple& needs, const py::tuple& out)
      : op_(op), needs_(needs), out_(out), outputs_(count) {
    if (needs.size() != count || out.size() != count) {
      throw ValueError(message(op, ": needs and out must have ", count, " entries"));
    }
  }

  // With a place for each argument, of its shape.
  ArgumentGradients(const char* op, std::vector<Argument> arguments, const py::tuple& needs,
                    const py::tuple& out)
      : ArgumentGradients(op, arguments.size(), needs, out) {
    arguments_ = std::move(arguments);
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const FloatInput* const input = arguments_[i].array;
      if (input == nullptr || !*input) continue;
      place(i, true, Shape(input->shape, input->shape + input->ndim));
    }
  }

  bool needs(std::size_t i) const { return needs_[i].cast<bool>(); }
  bool has_place(std::size_t i) const { return !out_[i].is_none(); }

  // The place of gradient `i`, null where it is not needed or the argument was absent.
  float* place(std::size_t i, bool present, const Shape& shape) {
    if (!present || !needs(i)) return nullptr;
    outputs_[i] = output_array(op_, name(i).c_str(), out_[i], shape);
    return outputs_[i].data;
  }
  // Null where there is none.
  float* data(std::size_t i) const { return outputs_[i].data; }
  // The array of gradient `i`, which has a place.
  const py::object& array(std::size_t i) const { return outputs_[i].array; }

  // Gradients are written while everything else is read: ValueError where one overlaps an input, or
  // another gradient.
  void expect_separate_from(const char* input_name, const FloatInput& input) const {
    if (!input) return;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      expect_separate(op_, name(i).c_str(), outputs_[i].data, outputs_[i].size, input_name,
                      input.data(), input.size);
    }
  }
  void expect_separate_from_each_other() const {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      for (std::size_t j = i + 1; j < outputs_.size(); ++j) {
        const std::string other = arguments_.empty() ? "another entry of out" : name(j);
        expect_separate(op_, name(i).c_str(), outputs_[i].data, outputs_[i].size, other.c_str(),
                        outputs_[j].data, outputs_[j].size);
      }
    }
  }
  // From the arguments, from `others` (results' gradients, options), and from each other.
  void expect_separate_from(const std::vector<const FloatInput*>& others) const {
    for (const Argument& argument : arguments_) {
      if (argument.array != nullptr) expect_separate_from(argument.name, *argument.array);
    }
    for (const FloatInput* other : others) expect_separate_from("dy or an option", *other);
    expect_separate_from_each_other();
  }

  // Zeros everywhere.
  void clear() const {
    for (const Output& output : outputs_) {
      if (output.data != nullptr) fill_zeros(output.data, output.size);
    }
  }

  py::tuple result() const {
    py::tuple gradients(outputs_.size());
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      gradients[i] = outputs_[i].array ? outputs_[i].array : py::none();
    }
    return gradients;
  }

 private:
  std::string name(std::size_t i) const {
    return arguments_.empty() ? "out" : "out[" + std::to_string(i) + "]";
  }

  const char* op_;
  py::tuple needs_;
  py::tuple out_;
  std::vector<Argument> arguments_;
  std::vector<Output> outputs_;
};

}  // namespace lamella
