// assert() that fails the launch with a message instead of ending the process. Included again and again, as in C.
#undef assert
#ifdef NDEBUG
#define assert(condition) ((void)0)
#else
#define assert(condition) \
    ((condition) ? (void)0 : kaasq_fail("assertion failed at " __FILE__ ":" KAASQ_TEXT(__LINE__) ": " #condition))
#endif
