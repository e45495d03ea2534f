// Rounding on purpose.
#pragma once

#include <cfenv>
#include <cmath>
#include <limits>

#include "care/host_device.hpp"

namespace care {

// Rounding to nearest, denormals kept: in this thread and those it starts, whatever the caller has set.
class DefaultArithmetic {
public:
    DefaultArithmetic() {
        std::fegetenv(&callers_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultArithmetic() { std::fesetenv(&callers_); }
    DefaultArithmetic(const DefaultArithmetic&) = delete;
    DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

private:
    std::fenv_t callers_;
};

// The float32 that is not below, or not above, a value.
CARE_BOTH inline float rounded_up(double value) {
    const float near = static_cast<float>(value);
    return double{near} < value ? std::nextafter(near, std::numeric_limits<float>::infinity()) : near;
}

CARE_BOTH inline float rounded_down(double value) { return -rounded_up(-value); }

// A norm summed in float64 over at most 65536 squares, enlarged by more than the sum has lost.
CARE_BOTH inline double enlarged(double norm) { return norm * (1 + 0x1p-35); }

}  // namespace care
