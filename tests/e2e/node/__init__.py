"""A real node of a real cluster, in network, mount and PID namespaces of its own.

    node = Node(folder)      nothing runs yet
    node.boot(images)        about 15 s until the node is ready
    node.power_off()         every process of it is killed at once; etcd's data, images and volumes stay
    node.boot()              as a machine that is switched on again
    node.remove()            nothing is left

What is in the way on small machines (no CAP_SYS_RESOURCE, cgroup v1, no `dummy` links, values of the kernel
that all namespaces share) is said where it is worked around.
"""
