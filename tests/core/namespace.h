/* Network namespaces of a test's own, and interfaces in them, changed by rtnetlink. */
#ifndef WGF_NAMESPACE_H
#define WGF_NAMESPACE_H

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

/* One rtnetlink request about an interface, answered: 0 or -errno. */
static inline int change_link(int netlink, uint16_t type, const char *name, int namespace, unsigned flags)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg link;
		uint8_t attributes[64];
	} request = {
		.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = type,
			 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
		.link = {.ifi_flags = flags, .ifi_change = flags},
	};
	struct rtattr *attribute = (struct rtattr *)request.attributes;
	attribute->rta_type = IFLA_IFNAME;
	attribute->rta_len = (unsigned short)RTA_LENGTH(strlen(name) + 1);
	strcpy(RTA_DATA(attribute), name);
	request.head.nlmsg_len += RTA_ALIGN(attribute->rta_len);
	if (namespace >= 0) {
		attribute = (struct rtattr *)(request.attributes + RTA_ALIGN(attribute->rta_len));
		attribute->rta_type = IFLA_NET_NS_FD;
		attribute->rta_len = RTA_LENGTH(sizeof(namespace));
		memcpy(RTA_DATA(attribute), &namespace, sizeof(namespace));
		request.head.nlmsg_len += RTA_ALIGN(attribute->rta_len);
	}
	CHECK(send(netlink, &request, request.head.nlmsg_len, 0) > 0);
	for (;;) { /* news come in between */
		_Alignas(struct nlmsghdr) uint8_t answer[8192];
		struct pollfd ready = {.fd = netlink, .events = POLLIN};
		CHECK(poll(&ready, 1, 5000) == 1);
		CHECK(recv(netlink, answer, sizeof(answer), 0) > 0);
		struct nlmsghdr *head = (struct nlmsghdr *)answer;
		if (head->nlmsg_type == NLMSG_ERROR)
			return ((struct nlmsgerr *)NLMSG_DATA(head))->error;
	}
}

static inline bool hears_of_link(int monitor)
{
	_Alignas(struct nlmsghdr) uint8_t news[8192];
	struct pollfd ready = {.fd = monitor, .events = POLLIN};
	return poll(&ready, 1, 5000) == 1 && recv(monitor, news, sizeof(news), 0) > 0 &&
	       ((struct nlmsghdr *)news)->nlmsg_type == RTM_NEWLINK;
}

static inline int open_namespace(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

/* A route netlink socket of another namespace (-1: of ours), told of links. */
static inline int open_netlink(int namespace)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	int home = open_namespace();
	CHECK(namespace < 0 || setns(namespace, CLONE_NEWNET) == 0);
	int s = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
	CHECK(s >= 0 && bind(s, (struct sockaddr *)&address, sizeof(address)) == 0);
	CHECK(setns(home, CLONE_NEWNET) == 0);
	close(home);
	return s;
}

/* Or its neighbour discovery would come between the packets that are counted, whenever it likes. */
static inline void switch_ipv6_off(void)
{
	int fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		CHECK(write(fd, "1", 1) == 1 && close(fd) == 0);
}

#endif
