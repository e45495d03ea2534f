// Activations of feed-forward networks. NaN stays NaN. Included by kernel_source.cpp alone.
#pragma once

#include "float_registers.hpp"

namespace care {
namespace {

struct Identity {
    CARE_INLINE static Floats of(Floats x) { return x; }
};

struct Gelu {
    // x Phi(x) = max(x, 0) - |x| Phi(-|x|), Phi(-a) = p(a)^-8 with p fitted so that the result errs by 4e-8, roundings
    // included by 3e-7, wherever x is: nothing cancels for a negative one.
    CARE_INLINE static Floats of(Floats x) {
        constexpr float kCoefficients[] = {3.3545986752869794e-06f, -2.0382500224513933e-05f, 0.00011809616989921778f,
                                           8.748213440412655e-05f,  0.0011256251018494368f,   0.00931580737233162f,
                                           0.04887039586901665f,    0.10875200480222702f,     1.0905083417892456f};
        const Floats a = absolute(x);
        Floats p = broadcast(kCoefficients[0]);
    #pragma GCC unroll 16
        for (std::size_t i = 1; i < 9; ++i) p = multiply_add(p, a, broadcast(kCoefficients[i]));
        p *= p;
        p *= p;
        p *= p;
        return larger(x, Floats{}) - a / p;
    }
};

// 1 / (1 + e^-x) times x. The exponential is of -|x|, so that it never overflows and nothing cancels.
CARE_INLINE Floats times_logistic(Floats x, Floats of) {
    const Floats power = exponential(-absolute(of));
    return x * (of < 0.0f ? power : Floats{} + 1.0f) / (power + 1.0f);
}

struct Silu {
    CARE_INLINE static Floats of(Floats x) { return times_logistic(x, x); }
};

// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u).
struct GeluTanh {
    CARE_INLINE static Floats of(Floats x) {
        constexpr float kTwice = 1.5957691216057308f;  // 2 sqrt(2 / pi)
        return times_logistic(x, kTwice * x * multiply_add(x * x, broadcast(0.044715f), broadcast(1.0f)));
    }
};

struct Relu {
    CARE_INLINE static Floats of(Floats x) { return x < 0.0f ? Floats{} : x; }
};

}  // namespace
}  // namespace care
