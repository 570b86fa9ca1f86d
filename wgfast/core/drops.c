/* The reasons' names and texts, laid out by the same list that makes the enum. */
#include <stddef.h>

#include "drops.h"

static const char *const names[WGF_DROP_COUNT] = {
#define X(NAME, name, text) [WGF_DROP_##NAME] = #name,
	WGF_DROPS(X)
#undef X
};

static const char *const texts[WGF_DROP_COUNT] = {
#define X(NAME, name, text) [WGF_DROP_##NAME] = text,
	WGF_DROPS(X)
#undef X
};

const char *wgf_drop_name(enum wgf_drop reason)
{
	return (unsigned)reason < WGF_DROP_COUNT ? names[reason] : NULL;
}

const char *wgf_drop_text(enum wgf_drop reason)
{
	return (unsigned)reason < WGF_DROP_COUNT ? texts[reason] : NULL;
}
