// Directed rounding, and a defined floating-point environment.
#pragma once

#include <cfenv>
#include <cmath>
#include <limits>

#include "care/host_device.hpp"

namespace care {

// Rounding to nearest with denormals, in this thread and in threads that it starts, whatever the caller has set.
class DefaultFloatEnvironment {
public:
    DefaultFloatEnvironment() {
        std::fegetenv(&callers_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultFloatEnvironment() { std::fesetenv(&callers_); }
    DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
    DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

private:
    std::fenv_t callers_;
};

// The nearest float32 that is not below the value.
CARE_HOST_DEVICE inline float rounded_up(double value) {
    const float near = static_cast<float>(value);
    return double{near} < value ? std::nextafter(near, std::numeric_limits<float>::infinity()) : near;
}

// The nearest float32 that is not above the value.
CARE_HOST_DEVICE inline float rounded_down(double value) { return -rounded_up(-value); }

// An upper bound of a norm that was summed in float64 over at most 65536 squares.
CARE_HOST_DEVICE inline double enlarged(double norm) { return norm * (1 + 0x1p-35); }

}  // namespace care
