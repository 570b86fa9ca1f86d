/* What a node is going to say: painted slot by slot from its records, then taken together to runs.
 * Of 64 slots few begin a run, so the places where one may begin are noted, and no others are looked at. */
#include "trie_build.h"

void wgf_painting_put(struct wgf_painting *painting, unsigned first, unsigned end, uint32_t answer)
{
	for (unsigned slot = first; slot < end; slot++)
		painting->answers[slot] = answer;
	painting->edges |= UINT64_C(1) << first | UINT64_C(1) << end % WGF_NODE_SLOTS;
}

/* What is later in the list is longer, or elsewhere. */
static bool paint_list(const struct wgf_trie *trie, const struct wgf_plan *plan, uint32_t list,
		       struct wgf_painting *painting)
{
	bool some = false;
	for (uint32_t number = list; number;) {
		const struct wgf_record *record = wgf_prefixes_at(trie->prefixes, number);
		unsigned length = wgf_record_length(record);
		number = record->next;
		trie->prefixes->work++;
		if (length <= plan->depth) /* of the table's, in the list of the place where it begins */
			continue;
		unsigned first = wgf_key_slot(wgf_record_key(trie->prefixes, record), plan->depth);
		unsigned end = first + (1u << (plan->depth + WGF_STRIDE - length));
		wgf_painting_put(painting, first, end, wgf_record_owner(record));
		some = true;
	}
	return some;
}

bool wgf_paint(const struct wgf_trie *trie, const struct wgf_plan *plan, struct wgf_painting *painting)
{
	bool some = false;
	for (unsigned slot = 0; slot < WGF_NODE_SLOTS; slot++)
		painting->answers[slot] = WGF_ANSWER_INHERIT;
	painting->edges = 0;
	if (plan->depth > trie->bits)
		return paint_list(trie, plan, plan->list, painting);
	for (unsigned part = 0; part < wgf_trie_parts(trie); part++)
		some |= paint_list(trie, plan, wgf_trie_list(trie, plan->key)[part], painting);
	return some;
}

void wgf_painting_find_runs(struct wgf_painting *painting)
{
	uint32_t *answers = painting->answers, last = answers[0];
	uint64_t bitmap = 0;
	unsigned runs = 1;
	for (uint64_t edges = painting->edges & ~UINT64_C(1); edges; edges &= edges - 1) {
		unsigned slot = (unsigned)__builtin_ctzll(edges);
		uint64_t differs = answers[slot] != last;
		last = answers[slot];
		bitmap |= differs << slot;
		answers[runs] = last; /* behind what is still to be read */
		runs += (unsigned)differs;
	}
	painting->edges = bitmap;
	painting->runs = runs;
}

unsigned wgf_painting_leave_out(struct wgf_painting *painting, uint16_t *inherits)
{
	uint32_t *answers = painting->answers;
	unsigned count = 0, left_out = 0;
	for (unsigned run = 0; run < painting->runs; run++) {
		bool inherited = run < WGF_INHERITS && answers[run] == WGF_ANSWER_INHERIT;
		left_out |= (unsigned)inherited << (run % WGF_INHERITS);
		answers[count] = answers[run];
		count += !inherited;
	}
	*inherits = (uint16_t)left_out;
	return count;
}

bool wgf_painting_is_one_run(const struct wgf_painting *painting, uint32_t outside, uint64_t *entry)
{
	unsigned run = painting->answers[0] == WGF_ANSWER_INHERIT;
	bool inherits_last = painting->answers[painting->runs - 1] == WGF_ANSWER_INHERIT;
	if (painting->runs - run - inherits_last != 1)
		return false;
	unsigned first = run ? (unsigned)__builtin_ctzll(painting->edges) : 0;
	unsigned last = inherits_last ? 62 - (unsigned)__builtin_clzll(painting->edges) : WGF_NODE_SLOTS - 1;
	*entry = wgf_entry(painting->answers[run], outside, first, last - first);
	return true;
}
