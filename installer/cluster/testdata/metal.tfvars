// A cluster as it was written for Tectonic's metal platform.
tectonic_cluster_name = "tectonic"
tectonic_admin_email = "admin@example.com"
tectonic_admin_password = "hunter2-in-plain-text"
tectonic_license_path = "/root/license.txt"
tectonic_base_domain = "unused"
tectonic_cluster_cidr = "10.2.0.0/16"
tectonic_service_cidr = "10.3.0.0/16"
tectonic_container_linux_channel = "stable"
tectonic_container_linux_version = "latest"
tectonic_networking = "flannel"
tectonic_etcd_servers = []
tectonic_vanilla_k8s = false

tectonic_http_proxy_address = "http://user:proxy-secret@proxy.example.com:3128"
tectonic_https_proxy_address = "http://proxy.example.com:3128"
tectonic_no_proxy = [".example.com", "10.0.0.0/8"]
tectonic_ntp_servers = ["ntp.example.com", "172.18.0.1"]

tectonic_metal_controller_domain = "k8s.example.com"
tectonic_metal_ingress_domain = "tectonic.example.com"
tectonic_metal_matchbox_http_url = "http://matchbox.example.com:8080"
tectonic_metal_matchbox_rpc_endpoint = "matchbox.example.com:8081"
tectonic_metal_matchbox_ca = <<EOD
-----BEGIN CERTIFICATE-----
Y2E=
-----END CERTIFICATE-----
EOD
tectonic_metal_matchbox_client_cert = <<EOD
-----BEGIN CERTIFICATE-----
Y2xpZW50
-----END CERTIFICATE-----
EOD
tectonic_metal_matchbox_client_key = <<EOD
-----BEGIN RSA PRIVATE KEY-----
a2V5
-----END RSA PRIVATE KEY-----
EOD
tectonic_custom_ca_pem_list = ["-----BEGIN CERTIFICATE-----\nY3VzdG9t\n-----END CERTIFICATE-----\n"]
tectonic_ssh_authorized_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl admin@example.com"

tectonic_metal_controller_names = ["node1"]
tectonic_metal_controller_domains = ["node1.example.com"]
tectonic_metal_controller_macs = ["5254.00a1.9cae"]
tectonic_metal_worker_names = ["node2.example.com", "node3"]
tectonic_metal_worker_domains = ["node2.example.com", "node3.example.com"]
tectonic_metal_worker_macs = ["52-54-00-B2-2F-86", "52:54:00:c3:61:77"]
