// The prelude has it already: kaasq_cuda.h.
