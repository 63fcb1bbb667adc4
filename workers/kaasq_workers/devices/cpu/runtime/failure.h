// How a launch fails.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

#include "kaasq_runtime.h"

namespace {

inline std::string text(kaasq::Index i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

struct Failure : std::exception {
    std::string message;
    explicit Failure(std::string text) : message(std::move(text)) {}
    const char* what() const noexcept override { return message.c_str(); }
};

// The kernel went for memory that is not mapped, at that address (0: one that the processor does not tell).
struct Fault : Failure {
    uint64_t address;
    Fault(std::string text, uint64_t address) : Failure(std::move(text)), address(address) {}
};

}  // namespace
